"""The timed window, and nothing else: stamps, work, one row into memory. No I/O and no garbage collection in it."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backbench.agent.worker.table import NOT_REACHED, FrameTable, row_offset
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome

_COMPLETED = OUTCOME_NUMBERS[FrameOutcome.COMPLETED]
_ERRORED = OUTCOME_NUMBERS[FrameOutcome.ERRORED]


@dataclass(frozen=True, slots=True)
class Window:
    """Frames `first` to `first + count` of a launch, written into the table's rows of the same numbers."""

    first: int
    count: int
    tag: int


def closed_loop(
    window: Window,
    table: FrameTable,
    fill: Callable[[int], int],
    infer: Callable[[int], None],
    input_count: int,
    timed_fill: bool,
    now: Callable[[], int] = time.perf_counter_ns,
) -> None:
    """Run frames back to back. A frame that raises is recorded as errored, and the next one follows.

    `now` is CLOCK_MONOTONIC in nanoseconds. Everything that the loop touches is a local name or a C call.
    """
    words, tag = table.words, window.tag
    for frame in range(window.first, window.first + window.count):
        at = row_offset(frame)
        outcome = _COMPLETED
        preprocess = compute = NOT_REACHED
        start = now()
        try:
            slot = fill(frame)
            ready = now()
            infer(slot)
            end = now()
            compute = end - ready
            preprocess = ready - start if timed_fill else NOT_REACHED
        except Exception:  # noqa: BLE001 - a failed frame is data; the run goes on
            end = now()
            outcome = _ERRORED
        words[at] = frame
        words[at + 1] = start
        words[at + 2] = start
        words[at + 3] = end if outcome == _COMPLETED else NOT_REACHED
        words[at + 4] = preprocess
        words[at + 5] = compute
        words[at + 6] = outcome
        words[at + 7] = tag
        words[at + 8] = frame % input_count
        words[0] = frame + 1


class QuietWindow:
    """Context in which the collector is frozen and off; afterwards `counters` says what happened all the same."""

    def __enter__(self) -> QuietWindow:
        self.counters: Mapping[str, int] = {}
        self._collections = 0
        gc.callbacks.append(self._count)
        gc.collect()
        gc.freeze()
        gc.disable()
        self._collections = 0
        self._before = _usage()
        return self

    def __exit__(self, *_: object) -> None:
        after = _usage()
        self.counters = {name: after[name] - self._before[name] for name in after}
        self.counters = {**self.counters, "garbage_collection_count": self._collections}
        gc.callbacks.remove(self._count)
        gc.enable()
        gc.unfreeze()

    def _count(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._collections += 1


def _usage() -> dict[str, int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "minor_fault_count": usage.ru_minflt,
        "major_fault_count": usage.ru_majflt,
        "voluntary_switch_count": usage.ru_nvcsw,
        "involuntary_switch_count": usage.ru_nivcsw,
        "cpu_time_ns": int((usage.ru_utime + usage.ru_stime) * 1e9),
    }
