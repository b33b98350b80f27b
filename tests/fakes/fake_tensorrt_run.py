"""The half of the double of `tensorrt` that runs engines; see `fake_tensorrt`."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from tests.fakes.fake_tensorrt_types import (
    POISON,
    CudaGraphStrategy,
    DataType,
    ILogger,
    IProfiler,
    LayerInformationFormat,
    Model,
    Severity,
    TensorIOMode,
    TensorLocation,
)


class Runtime:
    def __init__(self, module: Any, logger: ILogger) -> None:
        self._module, self._log = module, logger.log
        if module.double.faults.strikes("Runtime"):
            self._log(Severity.ERROR, module.double.faults.words)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.DLA_core = -1
        self.num_DLA_cores: int = module.double.dla_core_count

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        if self._module.double.faults.strikes("deserialize_cuda_engine"):
            self._log(Severity.ERROR, self._module.double.faults.words)
            return None
        data = bytes(serialized_engine)
        if not data.startswith(b"plan{"):
            self._log(Severity.ERROR, "Error Code 1: Serialization (the magic tag is not the expected one)")
            return None
        end = data.index(b"\n")
        head = json.loads(data[4:end])
        for name, mine in (("version", self._module.__version__), ("gpu", self._module.double.gpu)):
            if head[name] != mine:
                self._log(Severity.ERROR, f"Error Code 6: the engine is of {name} {head[name]}, and this is {mine}")
                return None
        return self._module.ICudaEngine(self._module, self._log, head, Model(data[end + 1 :]))


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: LayerInformationFormat) -> Any:  # noqa: A002 - the real name
        assert format is LayerInformationFormat.JSON
        nodes, head = self._engine.model.nodes, self._engine.head
        if not head["detailed"]:
            return json.dumps({"Layers": [node.name for node in nodes]})
        layers = [
            {"Name": node.name, "LayerType": "DLA" if head["dla"] and node.op_type == "Conv" else node.op_type.lower()}
            for node in nodes
        ]
        return json.dumps({"Layers": layers})


class IRuntimeConfig:
    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED


class ICudaEngine:
    def __init__(self, module: Any, log: Callable[[Severity, str], None], head: dict[str, Any], model: Model) -> None:
        self._module, self.log, self.head, self.model = module, log, head, model
        self._values: dict[str, Any] = {value.name: value for value in (*model.inputs, *model.outputs)}
        self.num_layers = len(model.nodes)

    @property
    def device_memory_size(self) -> int:
        return 4096

    @property
    def device_memory_size_v2(self) -> int:
        return 4096

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        if name not in self._values:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in {value.name for value in self.model.inputs} else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.model.dtype(self._values[name])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.model.shape(self._values[name])

    def get_tensor_location(self, name: str) -> TensorLocation:
        assert name in self._values
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.head["profiles"][profile_index][name]]

    def create_engine_inspector(self) -> EngineInspector | None:
        return EngineInspector(self)

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext | None:
        if self._module.double.faults.strikes("create_execution_context"):
            self.log(Severity.ERROR, self._module.double.faults.words)
            return None
        self._module.double.runtime_configs.append(runtime_config)
        return IExecutionContext(self._module, self)


class IExecutionContext:
    def __init__(self, module: Any, engine: ICudaEngine) -> None:
        self._module, self.engine = module, engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._session = onnxruntime.InferenceSession(engine.model.data, providers=["CPUExecutionProvider"])
        self._pending: list[str] = []
        self.profiler: IProfiler | None = None
        self.enqueue_emits_profile = True
        for value in engine.model.inputs:
            if -1 not in (shape := engine.model.shape(value)):
                self._shapes[value.name] = shape

    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted = tuple(shape)
        if self._fails("set_input_shape") or self.engine.get_tensor_mode(name) is not TensorIOMode.INPUT:
            return False
        fixed = self.engine.get_tensor_shape(name)
        if -1 not in fixed:
            return fixed == wanted or self._says(f"the shape of {name} is fixed to {fixed}")
        least, _, most = self.engine.get_tensor_profile_shape(name, 0)
        if not all(low <= size <= high for low, size, high in zip(least, wanted, most, strict=True)):
            return self._says(f"{wanted} is not within the profile of {name}")
        self._shapes[name] = wanted
        return True

    def infer_shapes(self) -> list[str]:
        lacking = [value.name for value in self.engine.model.inputs if value.name not in self._shapes]
        return lacking if lacking else []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        shape = self.engine.get_tensor_shape(name)
        value = next((value for value in self.engine.model.outputs if value.name == name), None)
        if value is None or self.infer_shapes():
            return shape
        found, open_places = self._computed(None)[name].shape, self.engine.model.open_places(value)
        return tuple(-1 if place in open_places else size for place, size in enumerate(found))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._fails("set_tensor_address") or self.engine.get_tensor_mode(name) is TensorIOMode.NONE:
            return False
        self._addresses[name] = int(memory)
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        if self.engine.get_tensor_mode(name) is not TensorIOMode.OUTPUT:
            return False
        self._allocators[name] = output_allocator
        return True

    def get_max_output_size(self, name: str) -> int:
        assert self.engine.get_tensor_mode(name) is TensorIOMode.OUTPUT
        count = int(np.prod([size for value in self.engine.model.inputs for size in self._shapes[value.name]]))
        return count * len(self._shapes[self.engine.model.inputs[0].name]) * 8

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._fails("execute_async_v3") or self.infer_shapes():
            return False
        names = [*(value.name for value in self.engine.model.inputs), *(v.name for v in self.engine.model.outputs)]
        lacking = [name for name in names if name not in self._addresses and name not in self._allocators]
        if lacking:
            return self._says(f"Error Code 3: no address was set for {lacking[0]}")
        if stream_handle == 0:
            return self._says("the default stream would synchronise with all others")
        targets = {name: self._target(name, stream_handle) for name in names[len(self.engine.model.inputs) :]}
        source = self._addresses[names[0]]
        for address, size, _ in targets.values():
            ctypes.memset(address, POISON, size)
        self._module.double.enqueue(stream_handle, lambda: self._execute(source, targets))
        self._pending += [node.name for node in self.engine.model.nodes]
        if self.profiler is not None and self.enqueue_emits_profile:
            self.report_to_profiler()
        return True

    def report_to_profiler(self) -> bool:
        if self.profiler is None or not self._pending:
            return False
        for place, name in enumerate(self._pending):
            self.profiler.report_layer_time(name, 0.25 * (place + 1))
        self._pending.clear()
        return True

    def _target(self, name: str, stream: int) -> tuple[int, int, tuple[int, ...]]:
        """Where an output goes, how many bytes of it, and in what shape."""
        if name not in self._allocators:
            shape = self.get_tensor_shape(name)
            return self._addresses[name], self._bytes(name, shape), shape
        # The shape of such an output needs the input, so the real one synchronises within the call, too.
        self._module.double.enqueue(stream, lambda: None)
        self._module.double.drain(stream)
        shape = self._computed(self._read(self._addresses[self.engine.model.inputs[0].name]))[name].shape
        size, allocator = self._bytes(name, shape), self._allocators[name]
        current = self._addresses.get(name, 0)
        if self._module.__version__.startswith("8"):
            address = allocator.reallocate_output(name, current, size, 256)
        else:
            address = allocator.reallocate_output_async(name, current, size, 256, stream)
        allocator.notify_shape(name, shape)
        return address, size, shape

    def _execute(self, source: int, targets: dict[str, tuple[int, int, tuple[int, ...]]]) -> None:
        values = self._computed(self._read(source))
        for name, (address, size, _) in targets.items():
            ctypes.memmove(address, np.ascontiguousarray(values[name]).ctypes.data, size)

    def _read(self, address: int) -> Any:
        shape = self._shapes[self.engine.model.inputs[0].name]
        buffer = (ctypes.c_char * (int(np.prod(shape)) * 4)).from_address(address)
        return np.frombuffer(memoryview(buffer), np.float32).reshape(shape).copy()

    def _computed(self, image: Any | None) -> dict[str, Any]:
        value = self.engine.model.inputs[0]
        image = np.zeros(self._shapes[value.name], np.float32) if image is None else image
        names = [output.name for output in self.engine.model.outputs]
        return dict(zip(names, self._session.run(names, {value.name: image}), strict=True))

    def _bytes(self, name: str, shape: tuple[int, ...]) -> int:
        sizes = {DataType.FLOAT: 4, DataType.HALF: 2, DataType.BF16: 2, DataType.INT32: 4, DataType.INT64: 8}
        return int(np.prod(shape)) * sizes.get(self.engine.get_tensor_dtype(name), 1)

    def _fails(self, name: str) -> bool:
        if self._module.double.faults.strikes(name):
            self._says(self._module.double.faults.words)
            return True
        return False

    def _says(self, words: str) -> bool:
        self.engine.log(Severity.ERROR, words)
        return False
