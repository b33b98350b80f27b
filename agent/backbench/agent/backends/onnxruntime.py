"""ONNX Runtime on the CPU, with bound buffers and stated threads."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import TYPE_CHECKING, Any

from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.domain.device import Backend as BackendDescription
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
_PROVIDER = "CPUExecutionProvider"
_PRECISIONS = ("as-model", "fp32", "fp16", "int8")
"""What a model holds: it is executed as it is."""
_OLDEST_OPSET = 7
_REMEDIES = {
    "IR version": "export the model with an older IR version, or update ONNX Runtime on the device",
    "opset": "export the model with an older opset, or update ONNX Runtime on the device",
    "is not a registered": "export the model without this operator, or update ONNX Runtime on the device",
    "NOT_IMPLEMENTED": "export the model without this operator, or in another precision",
}
_IR_VERSION = 8
"""Of a model whose opset is tried: every ONNX Runtime of the last years reads it."""


class OnnxRuntimeCpu:
    """The CPU execution provider, alone: no other provider may take a node."""

    name = "onnxruntime"

    def describe(self) -> BackendDescription:
        """Looks at what is installed and whether it imports; never raises."""
        installed = [name for name in _DISTRIBUTIONS if _version(name)]
        if not installed:
            return BackendDescription(
                self.name, available=False, reason="onnxruntime is not installed; pip install 'backbench[agent]'"
            )
        try:
            module = importlib.import_module("onnxruntime")
        except (ImportError, OSError) as error:
            reason = f"onnxruntime does not import: {str(error).splitlines()[0]}"
            return BackendDescription(self.name, available=False, reason=reason)
        return BackendDescription(
            self.name,
            available=True,
            version=module.__version__,
            providers=(_PROVIDER,),
            precisions=_PRECISIONS,
            max_opset=_newest_opset(module),
        )

    def load(self) -> None:
        """Import onnxruntime."""
        try:
            importlib.import_module("onnxruntime")
        except (ImportError, OSError) as error:
            raise WorkerFailure(
                FailureReason.BACKEND_UNAVAILABLE, f"onnxruntime does not import: {str(error).splitlines()[0]}"
            ) from error

    def open(self, request: OpenRequest) -> OrtEngine:
        """A session with the stated threads."""
        return OrtEngine(request)


class OrtEngine:
    """One inference session with one binding a slot: inputs and outputs are read and written in place."""

    def __init__(self, request: OpenRequest) -> None:
        import onnxruntime

        self._request = request
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = request.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if request.spin else "0")
        try:
            self._session = onnxruntime.InferenceSession(request.model_path, options, providers=[_PROVIDER])
        except Exception as error:
            words = _words(error)
            raise WorkerFailure(
                FailureReason.INVALID_MODEL,
                f"ONNX Runtime {onnxruntime.__version__} refuses the model: {words}; {_remedy(words)}",
            ) from error
        self._input = self._session.get_inputs()[0]
        self._version: str = onnxruntime.__version__
        self._bindings: list[Any] = []
        self._slots: list[NDArray[np.float32]] = []
        self._outputs: list[NDArray[np.generic] | None] = []
        self._newest = 0
        self._run = self._session.run_with_iobinding

    @property
    def facts(self) -> Mapping[str, str]:
        """See `Engine.facts`."""
        return {
            "backend": "onnxruntime",
            "backend_version": self._version,
            "providers": ",".join(self._session.get_providers()),
            "threads": str(self._request.threads),
            "inter_op_threads": "1",
            "spin": "yes" if self._request.spin else "no",
            "execution_mode": "sequential",
            "graph_optimization": "all",
            "transfers": "none: host memory, bound in place",
            "synchronisation": "the call returns with the output",
            "input": f"{self._input.name} float32 {'x'.join(map(str, self._request.input_shape))}",
        }

    @property
    def output_names(self) -> Sequence[str]:
        """See `Engine.output_names`."""
        return [output.name for output in self._session.get_outputs()]

    def bind(self, slots: Sequence[NDArray[np.float32]]) -> None:
        """One binding a slot. Outputs of a known shape get one buffer each, which every inference overwrites."""
        import numpy as np

        self._slots = list(slots)
        self._outputs = [_buffer(output) for output in self._session.get_outputs()]
        for array in self._slots:
            binding = self._session.io_binding()
            binding.bind_input(self._input.name, "cpu", 0, np.float32, list(array.shape), array.ctypes.data)
            for output, buffer in zip(self._session.get_outputs(), self._outputs, strict=True):
                if buffer is None:
                    binding.bind_output(output.name, "cpu")
                else:
                    shape = list(buffer.shape)
                    binding.bind_output(output.name, "cpu", 0, buffer.dtype.type, shape, buffer.ctypes.data)
            self._bindings.append(binding)

    def infer(self, slot: int) -> None:
        """See `Engine.infer`."""
        self._newest = slot
        self._run(self._bindings[slot])

    def outputs(self) -> Sequence[NDArray[np.generic]]:
        """See `Engine.outputs`. Those of a known shape are there already: asking the library takes 10 us a frame."""
        known = [buffer for buffer in self._outputs if buffer is not None]
        if len(known) == len(self._outputs):
            return known
        found = zip(self._outputs, self._bindings[self._newest].get_outputs(), strict=True)
        return [value.numpy() if buffer is None else buffer for buffer, value in found]

    def __enter__(self) -> OrtEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bindings.clear()
        del self._run, self._session


def _buffer(output: Any) -> NDArray[np.generic] | None:
    """Room for an output, or None where its type or shape is only known at run time."""
    import numpy as np

    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    if output.type not in types or not all(isinstance(size, int) and size > 0 for size in output.shape):
        return None
    return np.zeros(output.shape, types[output.type])


def _newest_opset(module: Any) -> int | None:
    """The newest opset of which a model of one operator opens; None where none does, or onnx is missing.

    ONNX Runtime does not tell it, and its version does not either: boards have builds of their own.
    """
    try:
        from onnx import TensorProto, defs, helper
    except (ImportError, OSError):
        return None
    number = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "one", number[:1], number[1:])
    options = module.SessionOptions()
    options.log_severity_level = 4
    for opset in range(defs.onnx_opset_version(), _OLDEST_OPSET - 1, -1):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_VERSION)
        with contextlib.suppress(Exception):  # its errors have no base of their own
            module.InferenceSession(model.SerializeToString(), options, providers=[_PROVIDER])
            return opset
    return None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.removeprefix("[ONNXRuntimeError] : ")[:300].rstrip(". ")


def _remedy(words: str) -> str:
    """What helps against a refusal, by what ONNX Runtime says."""
    for part, remedy in _REMEDIES.items():
        if part in words:
            return remedy
    return "export the model again, or update ONNX Runtime on the device"
