"""What happened in a window besides its frames: faults, switches, swapping, waiting for a processor, clock steps."""

from __future__ import annotations

import contextlib
import gc
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ReadClock = Callable[[int], int]
"""A clock's nanoseconds, by its number (clock_gettime(2))."""
_TRIES = 3
_SWAP_LINES = {"pswpin": "swap_in_page_count", "pswpout": "swap_out_page_count"}


class QuietWindow:
    """Context in which the collector is frozen and off; `begin` opens the part that is counted, leaving it closes it.

    Afterwards `counters` has what happened in between, of this process: `garbage_collection_count`, faults, switches
    and `cpu_time_ns`, `run_queue_wait_ns` (all its threads, ready and without a processor); of the machine: pages
    swapped in and out; and of the clocks: `clock_step_ns` (CLOCK_REALTIME against CLOCK_MONOTONIC), `suspend_ns`
    (CLOCK_BOOTTIME against CLOCK_MONOTONIC), both exact to about a microsecond, and `slew_ppb` (CLOCK_MONOTONIC
    against CLOCK_MONOTONIC_RAW). What the kernel does not tell is left out. Empty where the window was not completed.
    """

    def __init__(self, read_clock: ReadClock = time.clock_gettime_ns, proc: Path = Path("/proc")) -> None:
        self.counters: Mapping[str, int] = {}
        self._read_clock = read_clock
        self._proc = proc
        self._collections = 0
        self._before: _Snapshot | None = None

    def __enter__(self) -> QuietWindow:
        gc.callbacks.append(self._count)
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def begin(self) -> None:
        """Start counting."""
        self._collections = 0
        self._before = _snapshot(self._read_clock, self._proc)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None and kind is None:
            after = _snapshot(self._read_clock, self._proc)
            counted = {"garbage_collection_count": self._collections}
            self.counters = {**_differences(self._before, after), **counted}
        gc.callbacks.remove(self._count)
        gc.enable()
        gc.unfreeze()

    def _count(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collections += 1


@dataclass(frozen=True, slots=True)
class _Clocks:
    monotonic_ns: int
    raw_ns: int
    step_ns: int
    suspend_ns: int


@dataclass(frozen=True, slots=True)
class _Snapshot:
    counts: Mapping[str, int]
    waits_ns: Mapping[str, int]
    clocks: _Clocks


def _snapshot(read_clock: ReadClock, proc: Path) -> _Snapshot:
    return _Snapshot({**_usage(), **_swapped(proc / "vmstat")}, _waits_ns(proc / "self/task"), _clocks(read_clock))


def _differences(before: _Snapshot, after: _Snapshot) -> dict[str, int]:
    changes = {name: after.counts[name] - value for name, value in before.counts.items() if name in after.counts}
    if after.waits_ns:
        waits = (wait - before.waits_ns.get(thread, 0) for thread, wait in after.waits_ns.items())
        changes["run_queue_wait_ns"] = sum(waits)
    changes["clock_step_ns"] = after.clocks.step_ns - before.clocks.step_ns
    changes["suspend_ns"] = after.clocks.suspend_ns - before.clocks.suspend_ns
    raw_ns = after.clocks.raw_ns - before.clocks.raw_ns
    if raw_ns > 0:
        slewed_ns = after.clocks.monotonic_ns - before.clocks.monotonic_ns - raw_ns
        changes["slew_ppb"] = slewed_ns * 10**9 // raw_ns
    return changes


def _usage() -> dict[str, int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "minor_fault_count": usage.ru_minflt,
        "major_fault_count": usage.ru_majflt,
        "voluntary_switch_count": usage.ru_nvcsw,
        "involuntary_switch_count": usage.ru_nivcsw,
        "cpu_time_ns": int((usage.ru_utime + usage.ru_stime) * 1e9),
    }


def _swapped(vmstat: Path) -> dict[str, int]:
    """Pages that the machine swapped since it started."""
    pages = {}
    with contextlib.suppress(OSError, ValueError):
        for line in vmstat.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name in _SWAP_LINES:
                pages[_SWAP_LINES[name]] = int(value)
    return pages


def _waits_ns(tasks: Path) -> dict[str, int]:
    """How long each thread was ready and waited for a processor: the second number of its schedstat."""
    waits = {}
    with contextlib.suppress(OSError):
        for thread in tasks.iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):  # a thread may end meanwhile
                waits[thread.name] = int((thread / "schedstat").read_text(encoding="ascii").split()[1])
    return waits


def _clocks(read: ReadClock) -> _Clocks:
    """The clocks at one moment: of some tries the one that took least, for they are read one after the other."""

    def one() -> tuple[int, _Clocks]:
        first = read(time.CLOCK_MONOTONIC)
        realtime, boottime = read(time.CLOCK_REALTIME), read(time.CLOCK_BOOTTIME)
        raw = read(time.CLOCK_MONOTONIC_RAW)
        last = read(time.CLOCK_MONOTONIC)
        middle = (first + last) // 2
        return last - first, _Clocks(middle, raw, realtime - middle, boottime - middle)

    return min((one() for _ in range(_TRIES)), key=lambda tried: tried[0])[1]
