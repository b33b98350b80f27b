"""The half of the double of `tensorrt` that builds; see `fake_tensorrt`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.fake_tensorrt_types import (
    OPERATORS,
    DataType,
    DeviceType,
    HostMemory,
    ILogger,
    IProgressMonitor,
    LayerType,
    MemoryPoolType,
    Model,
    ProfilingVerbosity,
    Severity,
)


class _Tensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: DataType) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class _Layer:
    def __init__(self, node: Any, outputs: list[_Tensor]) -> None:
        self.name: str = node.name
        self.type = LayerType[OPERATORS[node.op_type]]
        self.num_outputs = len(outputs)
        self._outputs = outputs

    def get_output(self, index: int) -> _Tensor:
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.made_with = flags
        self.model: Model | None = None

    @property
    def num_inputs(self) -> int:
        return len(self.model.inputs) if self.model else 0

    @property
    def num_outputs(self) -> int:
        return len(self.model.outputs) if self.model else 0

    @property
    def num_layers(self) -> int:
        return len(self.model.nodes) if self.model else 0

    def get_input(self, index: int) -> _Tensor:
        assert self.model is not None
        value = self.model.inputs[index]
        return _Tensor(value.name, self.model.shape(value), self.model.dtype(value))

    def get_layer(self, index: int) -> _Layer:
        assert self.model is not None
        node = self.model.nodes[index]
        return _Layer(node, [_Tensor(name, (), self.model.held[name]) for name in node.output])


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - the real names
        if not len(min) == len(opt) == len(max):
            raise ValueError("shapes of different ranks")
        self.shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> HostMemory:
        return HostMemory(self.data)


class IBuilderConfig:
    def __init__(self, module: Any, log: Callable[[Severity, str], None]) -> None:
        self._module, self._log = module, log
        self._flags: set[str] = set()
        self._pools: dict[MemoryPoolType, int] = {}
        self._cache: ITimingCache | None = None
        self.profiles: list[IOptimizationProfile] = []
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.default_device_type = DeviceType.GPU
        self.DLA_core = -1
        self.builder_optimization_level = 3
        if hasattr(module, "IProgressMonitor"):
            self.progress_monitor: IProgressMonitor | None = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def get_flag(self, flag: Any) -> bool:
        return flag.name in self._flags

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        return self._pools.get(pool, 1 << 36)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def can_run_on_DLA(self, layer: _Layer) -> bool:  # noqa: N802 - the real name
        return layer.type.name in ("CONVOLUTION", "ACTIVATION")

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if serialized_timing_cache and not serialized_timing_cache.startswith(b"timings of the double "):
            self._log(Severity.ERROR, "the timing cache's header is damaged")
            return None
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        mine = f"timings of the double {self._module.__version__}".encode()
        if cache.data and not ignore_mismatch and not cache.data.startswith(mine):
            self._log(Severity.ERROR, "the timing cache is another version's")
            return False
        self._cache = ITimingCache(mine)
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class ParserError:
    def __init__(self, node: int, name: str, operator: str, words: str) -> None:
        self._node, self._name, self._operator, self._words = node, name, operator, words

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator

    def desc(self) -> str:
        return self._words


class Builder:
    def __init__(self, module: Any, logger: ILogger) -> None:
        self._module, self._log = module, logger.log
        self.num_DLA_cores: int = module.double.dla_core_count

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._module, self._log)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> HostMemory | None:
        model = network.model
        assert model is not None
        refused = self._refusal(network, config)
        if refused or self._module.double.faults.strikes("build_serialized_network"):
            self._log(Severity.ERROR, refused or self._module.double.faults.words)
            return None
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None and not self._told(monitor, len(model.nodes)):
            self._log(Severity.ERROR, "Error Code 7: the build was ended by its monitor")
            return None
        head = {
            "version": self._module.__version__,
            "gpu": self._module.double.gpu,
            "profiles": [profile.shapes for profile in config.profiles],
            "detailed": config.profiling_verbosity is ProfilingVerbosity.DETAILED,
            "dla": config.default_device_type is DeviceType.DLA,
        }
        return HostMemory(b"plan" + json.dumps(head).encode() + b"\n" + model.data)

    def _refusal(self, network: INetworkDefinition, config: IBuilderConfig) -> str:
        """What the real builder refuses, too."""
        strong = bool(network.made_with & self._bit("STRONGLY_TYPED")) or not hasattr(self._module.BuilderFlag, "FP16")
        held = {network.get_input(0).dtype} | {
            network.get_layer(index).get_output(0).dtype for index in range(network.num_layers)
        }
        quantized = any(network.get_layer(index).type.name == "QUANTIZE" for index in range(network.num_layers))
        explicit = self._bit("EXPLICIT_BATCH")
        if explicit and self._module.__version__.startswith("8") and not network.made_with & explicit:
            return "the network has an implicit batch"
        if -1 in network.get_input(0).shape and not config.profiles:
            return "Error Code 4: the network has dynamic inputs, but no optimization profile"
        if strong:
            wrong = sorted(config._flags & {"FP16", "BF16", "INT8"})
            return f"a strongly typed network takes no flag {wrong[0]}" if wrong else ""
        if DataType.HALF in held and "FP16" not in config._flags:
            return "a tensor is HALF, but the flag FP16 is not set"
        return (
            "the network is quantized, but the flag INT8 is not set"
            if quantized and "INT8" not in config._flags
            else ""
        )

    def _bit(self, name: str) -> int:
        flag = getattr(self._module.NetworkDefinitionCreationFlag, name, None)
        return 0 if flag is None else 1 << int(flag)

    def _told(self, monitor: IProgressMonitor, count: int) -> bool:
        monitor.phase_start("Building engine", None, 1)
        monitor.phase_start("Selecting tactics", "Building engine", count)
        for step in range(count):
            if not monitor.step_complete("Selecting tactics", step):
                return False
        monitor.phase_finish("Selecting tactics")
        monitor.step_complete("Building engine", 0)
        monitor.phase_finish("Building engine")
        return True


class OnnxParser:
    def __init__(self, module: Any, network: INetworkDefinition, logger: ILogger) -> None:
        self._module, self._network, self._log = module, network, logger.log
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        try:
            read = Model(Path(model).read_bytes())
        except Exception:  # noqa: BLE001 - whatever it is, the real one takes some of it for an empty model
            return True
        for index, node in enumerate(read.nodes):
            if node.op_type not in OPERATORS:
                error = self._module.ParserError(index, node.name, node.op_type, "no importer for this operator")
                self._errors.append(error)
                self._log(Severity.ERROR, f"while parsing node number {index}")
        self._network.model = None if self._errors else read
        return not self._errors
