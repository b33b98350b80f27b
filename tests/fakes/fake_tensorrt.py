"""A double of the `tensorrt` module, for what cannot run without a GPU; written for these tests, nothing of NVIDIA's.

It errs as the real one does: nothing raises, calls give None or False and write into the log. An engine's numbers come
from ONNX Runtime on the CPU, and are there only when its stream has come to them: until then the output holds poison.
`module_of` makes it for one version, with the attributes that this version has and no others; the contract tests hold
it against the real classes. Its streams are whatever queues calls: `enqueue` takes a stream's handle and a callable.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from tests.fakes.fake_tensorrt_build import (
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    IOptimizationProfile,
    ITimingCache,
    OnnxParser,
    ParserError,
)
from tests.fakes.fake_tensorrt_run import EngineInspector, ICudaEngine, IExecutionContext, IRuntimeConfig, Runtime
from tests.fakes.fake_tensorrt_types import (
    CudaGraphStrategy,
    DataType,
    DeviceType,
    Faults,
    ILogger,
    IOutputAllocator,
    IProfiler,
    IProgressMonitor,
    LayerInformationFormat,
    LayerType,
    MemoryPoolType,
    ProfilingVerbosity,
    TensorIOMode,
    TensorLocation,
)

Enqueue = Callable[[int, Callable[[], None]], None]
VERSIONS = ("8.6.1", "10.3.0", "10.13.2.6", "11.4.0.106", "1.7.1.116")
"""Those of which there is a real module to hold the double against; the last one is TensorRT for RTX."""
_STATED = ("BuilderFlag.FP16", "BuilderFlag.BF16", "BuilderFlag.INT8", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH")
ABSENT: dict[str, tuple[str, ...]] = {
    "8.6.1": (
        "IProgressMonitor", "IRuntimeConfig", "CudaGraphStrategy", "ParserError.node_name", "ParserError.node_operator",
        "ICudaEngine.device_memory_size_v2", "ICudaEngine.create_runtime_config", "BuilderFlag.BF16", "DataType.BF16",
        "DataType.INT64", "IBuilderConfig.progress_monitor", "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    ),
    "10.3.0": ("IRuntimeConfig", "CudaGraphStrategy", "ICudaEngine.create_runtime_config"),
    "10.13.2.6": ("CudaGraphStrategy", "IRuntimeConfig.cuda_graph_strategy"),
    "11.4.0.106": (
        "CudaGraphStrategy", "IRuntimeConfig.cuda_graph_strategy", "ICudaEngine.device_memory_size", *_STATED,
    ),
    "1.7.1.116": ("ICudaEngine.device_memory_size", *_STATED),
}  # fmt: skip
"""What a version does not have of all that the double has."""
CLASSES: tuple[Any, ...] = (
    Builder, DataType, DeviceType, EngineInspector, IBuilderConfig, ICudaEngine, IExecutionContext, ILogger,
    INetworkDefinition, IOptimizationProfile, IOutputAllocator, IProfiler, IProgressMonitor, IRuntimeConfig,
    ITimingCache, LayerInformationFormat, LayerType, MemoryPoolType, CudaGraphStrategy, OnnxParser, ParserError,
    ProfilingVerbosity, Runtime, TensorIOMode, TensorLocation,
)  # fmt: skip
_FLAGS = {
    "BuilderFlag": ("FP16", "INT8", "BF16", "GPU_FALLBACK"),
    "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
}


def module_of(
    version: str,
    enqueue: Enqueue,
    drain: Callable[[int], None],
    *,
    faults: Faults | None = None,
    gpu: str = "sm_87",
    dla_core_count: int = 0,
) -> Any:
    """The module of that version. `drain` runs what is queued on a stream, as a synchronisation does."""
    module = SimpleNamespace(__version__=version, double=SimpleNamespace(
        enqueue=enqueue, drain=drain, faults=faults or Faults(), gpu=gpu, dla_core_count=dla_core_count,
        runtime_configs=[],
    ))  # fmt: skip
    absent = ABSENT[version]
    for kind in CLASSES:
        if kind.__name__ not in absent:
            setattr(module, kind.__name__, _for_version(module, kind, absent))
    for name, members in _FLAGS.items():
        present = [member for member in members if f"{name}.{member}" not in absent]
        setattr(module, name, enum.IntEnum(name, {member: place for place, member in enumerate(present)}))
    return module


def _for_version(module: Any, kind: Any, absent: tuple[str, ...]) -> Any:
    """The class without what this version lacks, and made with the module where it needs that."""
    lacking = {name.partition(".")[2] for name in absent if name.startswith(f"{kind.__name__}.")}
    if issubclass(kind, enum.Enum):
        return SimpleNamespace(**{member.name: member for member in kind if member.name not in lacking})
    left = {*lacking, "__dict__", "__weakref__"}
    made = type(kind.__name__, (), {name: value for name, value in vars(kind).items() if name not in left})
    return partial(made, module) if kind in (Builder, OnnxParser, Runtime) else made
