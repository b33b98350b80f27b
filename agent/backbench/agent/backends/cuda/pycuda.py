"""A GPU's memory by PyCUDA, which is built on the device against its own CUDA."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.cuda.driver import CudaError
from backbench.agent.backends.cuda.memory import library_facts, no_memory, refused, start_driver
from backbench.agent.backends.cuda.usage import figures_since
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: it does not wait for the default stream."""


class PyCudaMemory:
    """See `DeviceMemory`."""

    def __init__(self, device: int, *, spin: bool, why: str) -> None:
        import pycuda
        import pycuda.driver as cuda

        self._cuda: Any = cuda
        self._free = contextlib.ExitStack()
        self._stream: Any = None
        self._driver, waits, self._bus_id = start_driver(device, spin=spin)
        self.facts: Mapping[str, str] = library_facts(f"PyCUDA {pycuda.VERSION_TEXT}", why, waits)
        try:
            self._open(device)
        except BaseException:
            self.close()
            raise

    def _open(self, device: int) -> None:
        self._done(self._cuda.init)
        context = self._done(self._cuda.Device(device).retain_primary_context)
        self._done(context.push)
        self._free.callback(self._leave, context)
        stream = self._done(self._cuda.Stream, _NON_BLOCKING)
        self._stream, self.stream = stream, int(stream.handle)

    def alloc(self, size_bytes: int) -> int:
        """See `DeviceMemory.alloc`."""
        room = self._room("GPU memory", size_bytes, self._cuda.mem_alloc, size_bytes)
        self._free.callback(self._quietly, room.free)
        return int(room)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """See `DeviceMemory.pinned`."""
        import numpy as np

        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        room = self._room(
            "pinned host memory", size_bytes, self._cuda.pagelocked_zeros, (max(size_bytes, 1),), np.uint8
        )
        self._free.callback(self._quietly, room.base.free)
        array: NDArray[Any] = room[:size_bytes].view(dtype).reshape(shape)
        return array

    def pin(self, array: NDArray[Any]) -> bool:
        """See `DeviceMemory.pin`. PyCUDA's own function for it ends the process with newer versions of numpy."""
        try:
            self._driver.pin(array.ctypes.data, array.nbytes)
        except CudaError:
            return False
        self._free.callback(self._unpin, array)
        return True

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """See `DeviceMemory.copy_in`."""
        self._done(self._cuda.memcpy_htod_async, address, array, self._stream)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """See `DeviceMemory.copy_out`."""
        self._done(self._cuda.memcpy_dtoh_async, array, address, self._stream)

    def event(self) -> Any:
        """See `DeviceMemory.event`. PyCUDA frees it with its last reference, which `close` is not to outlive."""
        event = _Event(self._done(self._cuda.Event))
        self._free.callback(event.drop)
        return event

    def record(self, event: Any) -> None:
        """See `DeviceMemory.record`."""
        self._done(event.made.record, self._stream)

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """See `DeviceMemory.elapsed_ns`. The driver tells it in ms, with a resolution of about 500 ns."""
        try:
            return round(1e6 * float(start.made.time_till(end.made)))
        except self._cuda.Error:
            return -1

    def synchronise(self) -> None:
        """See `DeviceMemory.synchronise`."""
        self._done(self._stream.synchronize)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """See `DeviceMemory.capture`. `chosen_library` does not choose PyCUDA where graphs are asked for."""
        raise WorkerFailure(
            FailureReason.BACKEND_UNAVAILABLE, "PyCUDA makes no CUDA graphs; pip install 'backbench[cuda-python]'"
        )

    def mem_info(self) -> tuple[int, int]:
        """See `DeviceMemory.mem_info`."""
        free, total = self._done(self._cuda.mem_get_info)
        return int(free), int(total)

    def usage(self, free_before: int) -> Mapping[str, int]:
        """See `DeviceMemory.usage`."""
        return figures_since(free_before, self._bus_id, self.mem_info)

    def close(self) -> None:
        """See `DeviceMemory.close`. What a GPU that is lost refuses to free goes with the process."""
        if self._stream is not None:
            with contextlib.suppress(WorkerFailure):
                self.synchronise()
        self._stream = None
        self._free.close()

    def _leave(self, context: Any) -> None:
        """Give the primary context back; PyCUDA forgets to take it off the driver's own stack."""
        context.detach()
        with contextlib.suppress(CudaError):
            self._driver.pop_context()

    def _quietly(self, free: Callable[[], None]) -> None:
        with contextlib.suppress(self._cuda.Error):
            free()

    def _unpin(self, array: NDArray[Any]) -> None:
        with contextlib.suppress(CudaError):
            self._driver.unpin(array.ctypes.data)

    def _room(self, what: str, size_bytes: int, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._done(call, *arguments)
        except WorkerFailure as failure:
            if failure.reason is FailureReason.OUT_OF_MEMORY:
                raise no_memory(what, size_bytes, self.mem_info) from failure
            raise

    def _done(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call gives. Raises WorkerFailure."""
        try:
            return call(*arguments)
        except self._cuda.Error as error:
            what, _, why = " ".join(str(error).split()).partition(" failed: ")
            raise refused(what, why or "CUDA does not say why") from error


class _Event:
    """An event that can be dropped while others still hold this."""

    def __init__(self, made: Any) -> None:
        self.made = made

    def drop(self) -> None:
        self.made = None
