"""ONNX Runtime on the CPU, with bound buffers and stated threads."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from backbench.agent.backends import ort_library
from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.ort_profile import layers_of, read_profile
from backbench.domain.device import Backend as BackendDescription
from backbench.domain.event import Layer
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OnnxRuntimeCpu:
    """The CPU execution provider, alone: no other provider may take a node."""

    name = "onnxruntime"

    def describe(self) -> BackendDescription:
        """Looks at what is installed and whether it imports; never raises."""
        try:
            module = ort_library.imported()
        except WorkerFailure as failure:
            return BackendDescription(self.name, available=False, reason=str(failure))
        return BackendDescription(
            self.name,
            available=True,
            version=module.__version__,
            providers=(ort_library.CPU,),
            precisions=ort_library.PRECISIONS,
            max_opset=ort_library.newest_opset(module),
        )

    def load(self) -> None:
        """Import onnxruntime."""
        ort_library.imported()

    def open(self, request: OpenRequest) -> OrtEngine:
        """A session with the stated threads."""
        return OrtEngine(request)


class OrtEngine:
    """One inference session with one binding a slot: inputs and outputs are read and written in place."""

    def __init__(self, request: OpenRequest) -> None:
        import onnxruntime

        self._request = request
        self._library: Any = onnxruntime
        self._version: str = onnxruntime.__version__
        self._session = self._opened(self._options())
        self._input = self._session.get_inputs()[0]
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
        self._outputs = self._output_buffers()
        for array in self._slots:
            binding = self._output_binding()
            binding.bind_input(self._input.name, "cpu", 0, np.float32, list(array.shape), array.ctypes.data)
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

    def layers(self) -> Sequence[Layer]:
        """See `Layered.layers`."""
        try:
            layers = layers_of(read_profile(Path(self._session.end_profiling())))
        except (OSError, ValueError) as error:
            raise _no_layers(self._version, str(error)) from error
        if not layers:
            raise _no_layers(self._version, "it names no node")
        return layers

    def __enter__(self) -> OrtEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bindings.clear()
        del self._run, self._session

    def _options(self) -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self._request.threads
        options.inter_op_num_threads = 1
        options.execution_mode = self._library.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._request.spin else "0")
        if self._request.profiled:
            profile(options)
        return options

    def _opened(self, options: Any) -> Any:
        """A session. Raises WorkerFailure."""
        try:
            return self._library.InferenceSession(
                self._request.model_path, options, providers=[ort_library.CPU], enable_fallback=False
            )
        except Exception as error:
            raise ort_library.refused(error, self._library) from error

    def _output_buffers(self) -> list[NDArray[np.generic] | None]:
        return [_buffer(output) for output in self._session.get_outputs()]

    def _output_binding(self) -> Any:
        """A binding whose outputs are the buffers, and those of an unknown shape whatever the library allocates."""
        binding = self._session.io_binding()
        for output, buffer in zip(self._session.get_outputs(), self._outputs, strict=True):
            if buffer is None:
                binding.bind_output(output.name, "cpu")
            else:
                shape = list(buffer.shape)
                binding.bind_output(output.name, "cpu", 0, buffer.dtype.type, shape, buffer.ctypes.data)
        return binding


def profile(options: Any) -> None:
    """Let a session write what each node takes; the file lies where temporary files are, in a worker its own folder."""
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "nodes")


def _no_layers(version: str, why: str) -> WorkerFailure:
    return WorkerFailure(
        FailureReason.BACKEND_UNAVAILABLE,
        f"ONNX Runtime {version} wrote no profile of its nodes that can be read ({why}); leave --layers away",
    )


def _buffer(output: Any) -> NDArray[np.generic] | None:
    """Room for an output, or None where its type or shape is only known at run time."""
    import numpy as np

    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    if output.type not in types or not all(isinstance(size, int) and size > 0 for size in output.shape):
        return None
    return np.zeros(output.shape, types[output.type])
