"""A GPU's memory by NVIDIA's own cuda-bindings: wheels for every architecture, and CUDA graphs."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.cuda.memory import library_facts, no_memory, refused, start_driver
from backbench.agent.backends.cuda.usage import figures_since
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: it does not wait for the default stream."""
_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile spoils no capture."""


class BindingsMemory:
    """See `DeviceMemory`."""

    def __init__(self, device: int, *, spin: bool, why: str) -> None:
        import cuda.bindings
        from cuda.bindings import driver

        self._cuda: Any = driver
        self._free = contextlib.ExitStack()
        _, waits, self._bus_id = start_driver(device, spin=spin)
        self.facts: Mapping[str, str] = library_facts(f"cuda-bindings {cuda.bindings.__version__}", why, waits)
        try:
            self._open(device)
        except BaseException:
            self.close()
            raise

    def _open(self, device: int) -> None:
        (handle,) = self._done("cuDeviceGet", device)
        (context,) = self._done("cuDevicePrimaryCtxRetain", handle)
        self._free.callback(self._cuda.cuDevicePrimaryCtxRelease, handle)
        self._done("cuCtxPushCurrent", context)
        self._free.callback(self._cuda.cuCtxPopCurrent)
        (self._stream,) = self._done("cuStreamCreate", _NON_BLOCKING)
        self._free.callback(self._cuda.cuStreamDestroy, self._stream)
        self.stream = int(self._stream)

    def alloc(self, size_bytes: int) -> int:
        """See `DeviceMemory.alloc`."""
        (address,) = self._room("GPU memory", "cuMemAlloc", size_bytes)
        self._free.callback(self._cuda.cuMemFree, address)
        return int(address)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """See `DeviceMemory.pinned`."""
        import numpy as np

        count = math.prod(shape)
        size_bytes = max(count * np.dtype(dtype).itemsize, 1)
        (address,) = self._room("pinned host memory", "cuMemAllocHost", size_bytes)
        self._free.callback(self._cuda.cuMemFreeHost, address)
        room = memoryview((ctypes.c_char * size_bytes).from_address(int(address)))
        array: NDArray[Any] = np.frombuffer(room, dtype, count).reshape(shape)
        array[...] = 0
        return array

    def pin(self, array: NDArray[Any]) -> bool:
        """See `DeviceMemory.pin`."""
        address = array.ctypes.data
        (code,) = self._cuda.cuMemHostRegister(address, array.nbytes, 0)
        if int(code) == 0:
            self._free.callback(self._unpin, address, array)
        return int(code) == 0

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """See `DeviceMemory.copy_in`."""
        self._done("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._stream)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """See `DeviceMemory.copy_out`."""
        self._done("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)

    def event(self) -> Any:
        """See `DeviceMemory.event`."""
        (event,) = self._done("cuEventCreate", 0)
        self._free.callback(self._cuda.cuEventDestroy, event)
        return event

    def record(self, event: Any) -> None:
        """See `DeviceMemory.record`."""
        self._done("cuEventRecord", event, self._stream)

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """See `DeviceMemory.elapsed_ns`. The driver tells it in ms, with a resolution of about 500 ns."""
        code, elapsed_ms = self._cuda.cuEventElapsedTime(start, end)
        return round(elapsed_ms * 1e6) if int(code) == 0 else -1

    def synchronise(self) -> None:
        """See `DeviceMemory.synchronise`."""
        self._done("cuStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `DeviceMemory.capture`."""
        self._done("cuStreamBeginCapture", self._stream, self._cuda.CUstreamCaptureMode(_THREAD_LOCAL))
        try:
            work()
        except BaseException:
            self._drop_capture()
            raise
        (graph,) = self._done("cuStreamEndCapture", self._stream)
        try:
            (ready,) = self._done("cuGraphInstantiate", graph, 0)
        finally:
            self._cuda.cuGraphDestroy(graph)
        self._free.callback(self._cuda.cuGraphExecDestroy, ready)
        return lambda: self._launch(ready)

    def mem_info(self) -> tuple[int, int]:
        """See `DeviceMemory.mem_info`."""
        free, total = self._done("cuMemGetInfo")
        return int(free), int(total)

    def usage(self, free_before: int) -> Mapping[str, int]:
        """See `DeviceMemory.usage`."""
        return figures_since(free_before, self._bus_id, self.mem_info)

    def close(self) -> None:
        """See `DeviceMemory.close`. What a GPU that is lost refuses to free goes with the process."""
        if hasattr(self, "stream"):
            with contextlib.suppress(WorkerFailure):
                self.synchronise()
            del self.stream
        self._free.close()

    def _launch(self, graph: Any) -> None:
        self._done("cuGraphLaunch", graph, self._stream)

    def _drop_capture(self) -> None:
        """Leave the stream usable after a capture that went wrong."""
        code, graph = self._cuda.cuStreamEndCapture(self._stream)
        if int(code) == 0:
            self._cuda.cuGraphDestroy(graph)

    def _unpin(self, address: int, array: NDArray[Any]) -> None:  # noqa: ARG002 - it lives as long as it is pinned
        self._cuda.cuMemHostUnregister(address)

    def _room(self, what: str, function: str, size_bytes: int) -> tuple[Any, ...]:
        try:
            return self._done(function, size_bytes)
        except WorkerFailure as failure:
            if failure.reason is FailureReason.OUT_OF_MEMORY:
                raise no_memory(what, size_bytes, self.mem_info) from failure
            raise

    def _done(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """What a call gives. Raises WorkerFailure."""
        code, *found = getattr(self._cuda, function)(*arguments)
        if int(code) != 0:
            raise refused(function, getattr(code, "name", str(int(code))))
        return tuple(found)
