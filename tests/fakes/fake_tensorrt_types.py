"""Types, texts and models that both halves of the double of `tensorrt` share; see `fake_tensorrt`."""

from __future__ import annotations

import enum
from collections import Counter
from typing import Any

import onnx

POISON = 0x7F
"""Each byte of an output before its stream is synchronised: floats of 3.4e38, whole numbers far off."""
OPEN_DIMENSION = "found"
"""The name of a dimension that is known only when the model has run."""


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, INT64, BF16 = range(8)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class LayerInformationFormat(enum.Enum):
    ONELINE, JSON = range(2)


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class DeviceType(enum.Enum):
    GPU, DLA = range(2)


class MemoryPoolType(enum.Enum):
    WORKSPACE, DLA_MANAGED_SRAM = range(2)


class CudaGraphStrategy(enum.Enum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


OPERATORS = {
    "Conv": "CONVOLUTION",
    "Relu": "ACTIVATION",
    "GlobalAveragePool": "REDUCE",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "NonZero": "NON_ZERO",
    "Identity": "IDENTITY",
    "Cast": "CAST",
    "Add": "ELEMENTWISE",
    "Mul": "ELEMENTWISE",
}
LayerType = enum.Enum("LayerType", sorted(set(OPERATORS.values())))  # type: ignore[misc]
_TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.BOOL: DataType.BOOL,
    onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
}


class ILogger:
    Severity = Severity

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProfiler:
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class IOutputAllocator:
    pass


class HostMemory(bytearray):
    @property
    def nbytes(self) -> int:
        return len(self)


class Faults:
    """Which call of which name fails, counted from 1: `{"execute_async_v3": 3}`; what it then says in the log."""

    def __init__(self, at: dict[str, int] | None = None, words: str = "the double fails as it was told") -> None:
        self._at = at or {}
        self.words = words
        self.calls: Counter[str] = Counter()

    def strikes(self, name: str) -> bool:
        self.calls[name] += 1
        return self._at.get(name) == self.calls[name]


class Model:
    """What the double knows of an ONNX model."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        graph = onnx.load_from_string(data).graph
        inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).graph
        self.held = {value.name: self.dtype(value) for value in (*inferred.value_info, *graph.output)}
        self.nodes = list(graph.node)
        held = {initializer.name for initializer in graph.initializer}
        self.inputs = [value for value in graph.input if value.name not in held]
        self.outputs = list(graph.output)

    def shape(self, value: Any) -> tuple[int, ...]:
        sizes = value.type.tensor_type.shape.dim
        return tuple(-1 if size.dim_param or not size.HasField("dim_value") else size.dim_value for size in sizes)

    def open_places(self, value: Any) -> set[int]:
        sizes = value.type.tensor_type.shape.dim
        return {place for place, size in enumerate(sizes) if size.dim_param == OPEN_DIMENSION}

    def dtype(self, value: Any) -> DataType:
        return _TYPES[value.type.tensor_type.elem_type]
