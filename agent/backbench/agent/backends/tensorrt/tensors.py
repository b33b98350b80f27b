"""An engine's named tensors: what goes in, and the room for what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.cuda.memory import DeviceMemory
from backbench.agent.backends.tensorrt.module import Library
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NUMPY_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "uint16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
"""numpy has no bfloat16: its bits are taken as they are, and widened when they are asked for."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output. `kind` is TensorRT's name of its type, `on_host` that it is read or written by the CPU."""

    name: str
    kind: str
    on_host: bool

    @property
    def dtype(self) -> str:
        """How numpy calls it."""
        return _NUMPY_TYPES[self.kind]


class Output(Protocol):
    """Room for an output on the device, and pinned room on the host."""

    tensor: Tensor
    address: int

    def copy_out(self, memory: DeviceMemory) -> None:
        """Queue the copy from the device."""

    def array(self) -> NDArray[np.generic]:
        """The newest values; overwritten by the next inference."""


def inputs_and_outputs(library: Library, engine: Any) -> tuple[Tensor, list[Tensor]]:
    """The one input and all outputs. Raises WorkerFailure where the engine has others, or types that numpy lacks."""
    modes = library.module.TensorIOMode
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        tensor = Tensor(
            name,
            engine.get_tensor_dtype(name).name,
            engine.get_tensor_location(name) == library.module.TensorLocation.HOST,
        )
        if tensor.kind not in _NUMPY_TYPES:
            raise WorkerFailure(
                FailureReason.INVALID_MODEL, f'tensor "{name}" is {tensor.kind}; export the model with a float32 one'
            )
        (inputs if engine.get_tensor_mode(name) == modes.INPUT else outputs).append(tensor)
    if len(inputs) != 1 or inputs[0].kind != "FLOAT":
        told = ", ".join(f"{tensor.name} {tensor.kind}" for tensor in inputs)
        raise WorkerFailure(
            FailureReason.INVALID_MODEL, f"the engine's inputs are {told}; export the model with one float32 image"
        )
    return inputs[0], outputs


def make_output(library: Library, context: Any, tensor: Tensor, memory: DeviceMemory) -> Output:
    """Room for an output whose input's shape is set; one whose shape the model itself finds gets it while it runs."""
    shape = tuple(context.get_tensor_shape(tensor.name))
    if -1 in shape:
        return OpenOutput(library, context, tensor, memory)
    return FixedOutput(tensor, shape, memory)


class FixedOutput:
    """An output of a known shape: one buffer on each side, for all inferences."""

    def __init__(self, tensor: Tensor, shape: tuple[int, ...], memory: DeviceMemory) -> None:
        self.tensor = tensor
        self._array = memory.pinned(shape, tensor.dtype)
        self.address = self._array.ctypes.data if tensor.on_host else memory.alloc(max(self._array.nbytes, 1))

    def copy_out(self, memory: DeviceMemory) -> None:
        """See `Output.copy_out`."""
        if not self.tensor.on_host:
            memory.copy_out(self._array, self.address)

    def array(self) -> NDArray[np.generic]:
        """See `Output.array`."""
        return _widened(self._array, self.tensor)


class OpenOutput:
    """An output whose shape is known only when the model has run: room for the most that it can take, given on demand.

    `execute_async_v3` waits for the shape itself, so it is known when the copy out is queued.
    """

    def __init__(self, library: Library, context: Any, tensor: Tensor, memory: DeviceMemory) -> None:
        import numpy as np

        self.tensor = tensor
        self._most_bytes = max(int(context.get_max_output_size(tensor.name)), np.dtype(tensor.dtype).itemsize)
        self._host = memory.pinned((self._most_bytes,), "uint8")
        self.address = memory.alloc(self._most_bytes)
        self.allocator = _make_allocator(library.module, self)
        self._shape: tuple[int, ...] = (0,)

    def room(self, size_bytes: int) -> int:
        """The address for so many bytes; 0 where that is more than TensorRT said it can be."""
        return self.address if size_bytes <= self._most_bytes else 0

    def found(self, shape: tuple[int, ...]) -> None:
        """The shape of what is about to come."""
        self._shape = shape

    def copy_out(self, memory: DeviceMemory) -> None:
        """See `Output.copy_out`."""
        if (array := self._array()).nbytes:
            memory.copy_out(array, self.address)

    def array(self) -> NDArray[np.generic]:
        """See `Output.array`."""
        return _widened(self._array(), self.tensor)

    def _array(self) -> NDArray[np.generic]:
        import numpy as np

        kind = np.dtype(self.tensor.dtype)
        size_bytes = math.prod(self._shape) * kind.itemsize
        found: NDArray[np.generic] = self._host[:size_bytes].view(kind).reshape(self._shape)
        return found


def _make_allocator(module: Any, output: OpenOutput) -> Any:
    """An IOutputAllocator of that module; versions before 10 know only the first of the two calls."""

    class Allocator(module.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IOutputAllocator.__init__(self)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:  # noqa: ARG002
            return output.room(size)

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, *_: int) -> int:  # noqa: ARG002
            return output.room(size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:  # noqa: ARG002
            output.found(tuple(shape))

    return Allocator()


def _widened(array: NDArray[np.generic], tensor: Tensor) -> NDArray[np.generic]:
    import numpy as np

    if tensor.kind != "BF16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)
