"""Sleeping until a moment on CLOCK_MONOTONIC, to about a microsecond.

`time.sleep` takes a length, and lengths drift. The kernel's absolute sleep does not, but wakes some 50 us late or more
(timer slack, the way out of idle); so the last stretch is spun. It is kept short, because spinning heats the device.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable

SPIN_NS = 300_000
"""At most so long is spun before a moment."""
_CLOCK_MONOTONIC = 1
_TIMER_ABSTIME = 1
_PR_SET_TIMERSLACK = 29


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_libc = ctypes.CDLL(None)
_libc.clock_nanosleep.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Timespec), ctypes.c_void_p)


def sleep_until(
    due_ns: int, now: Callable[[], int] = time.perf_counter_ns, nap_until: Callable[[int], None] | None = None
) -> None:
    """Return at `due_ns` or as soon after it as can be; at once when it has passed.

    Times are nanoseconds on CLOCK_MONOTONIC, which is what `time.perf_counter_ns` reads on Linux. `nap_until` is the
    coarse part, to `SPIN_NS` before.
    """
    if due_ns - now() > SPIN_NS:
        (nap_until or _nap_until)(due_ns - SPIN_NS)
    while now() < due_ns:
        pass


def lower_timer_slack() -> None:
    """Ask the kernel to wake this thread within a nanosecond instead of the usual 50 us (PR_SET_TIMERSLACK, prctl(2)).

    Where it refuses, sleeps end a little later, mostly still within the stretch that is spun.
    """
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def _nap_until(moment_ns: int) -> None:
    seconds, nanoseconds = divmod(moment_ns, 10**9)
    moment = _Timespec(seconds, nanoseconds)
    # An interrupted absolute sleep is simply begun again. The call returns the error instead of setting errno.
    while (error := _libc.clock_nanosleep(_CLOCK_MONOTONIC, _TIMER_ABSTIME, ctypes.byref(moment), None)) != 0:
        if error != errno.EINTR:
            raise OSError(error, f"clock_nanosleep: {os.strerror(error)}")
