"""A device's memory that is the host's: copies and kernels are queued, and happen when their stream is synchronised.

Until then what they write to holds poison, so that who does not wait for it is seen. For the tests of what uses a
`DeviceMemory`; the ones over a driver are tested over the fake driver.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tests.fakes.fake_tensorrt_types import POISON

_STREAM = 77
_STEP_NS = 1000
"""What every queued step takes, by its events."""


class HostMemory:
    """See `backbench.agent.backends.cuda.memory.DeviceMemory`."""

    def __init__(self, *, pins: bool = True, free_bytes: int = 1 << 30) -> None:
        self.facts: Mapping[str, str] = {"cuda_library": "the host's memory", "synchronisation": "none"}
        self.stream = _STREAM
        self.closed = False
        self.copied_out_bytes = 0
        self._pins, self._free_bytes = pins, free_bytes
        self._held: dict[int, Any] = {}
        self._queue: list[Callable[[], object]] = []
        self._recording: list[Callable[[], object]] | None = None
        self._clock_ns = 0

    def enqueue(self, stream: int, step: Callable[[], object]) -> None:
        assert stream == _STREAM
        (self._queue if self._recording is None else self._recording).append(step)

    def drain(self, stream: int) -> None:
        assert stream == _STREAM
        steps, self._queue = self._queue, []
        for step in steps:
            self._clock_ns += _STEP_NS
            step()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def alloc(self, size_bytes: int) -> int:
        buffer = ctypes.create_string_buffer(size_bytes)
        self._held[ctypes.addressof(buffer)] = buffer
        self._free_bytes -= size_bytes
        return ctypes.addressof(buffer)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Any:
        return np.zeros(shape, dtype)

    def pin(self, array: Any) -> bool:
        assert array.flags.c_contiguous
        return self._pins

    def copy_in(self, address: int, array: Any) -> None:
        ctypes.memset(address, POISON, array.nbytes)
        self.enqueue(_STREAM, lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes))

    def copy_out(self, array: Any, address: int) -> None:
        ctypes.memset(array.ctypes.data, POISON, array.nbytes)
        self.copied_out_bytes = array.nbytes
        self.enqueue(_STREAM, lambda: ctypes.memmove(array.ctypes.data, address, array.nbytes))

    def event(self) -> list[int]:
        return [-1]

    def record(self, event: list[int]) -> None:
        self.enqueue(_STREAM, lambda: event.__setitem__(0, self._clock_ns))

    def elapsed_ns(self, start: list[int], end: list[int]) -> int:
        return -1 if -1 in (*start, *end) else end[0] - start[0]

    def synchronise(self) -> None:
        self.drain(_STREAM)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._recording = []
        work()
        steps, self._recording = self._recording, None
        return lambda: self._queue.extend(steps)

    def mem_info(self) -> tuple[int, int]:
        return self._free_bytes, 1 << 30

    def usage(self, free_before: int) -> Mapping[str, int]:
        return {"cuda.used_delta": free_before - self._free_bytes}

    def close(self) -> None:
        self.closed = True
        self._held.clear()
