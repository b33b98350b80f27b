"""Frames that arrive by the clock, whether the worker is ready or not: a camera, without a thread to play it.

Arrivals are known beforehand, so the worker replays them whenever it comes up for air: nobody but the worker takes from
the queue, so what it finds is what a producer beside it would have left there. A stall shows up as latency or as drops,
and is never left out (coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backbench.agent.worker.loop import Clock, Window, Work, server
from backbench.agent.worker.pacing import sleep_until
from backbench.agent.worker.table import COLUMNS, PENDING, FrameTable, row_offset
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome

LEAD_NS = 50_000_000
"""From the start of the window to arrival 0."""
_SUPERSEDED = OUTCOME_NUMBERS[FrameOutcome.SUPERSEDED]
_QUEUE_FULL = OUTCOME_NUMBERS[FrameOutcome.QUEUE_FULL]
_DUE, _SEEN, _OUTCOME = (COLUMNS.index(name) for name in ("due_ns", "seen_ns", "outcome"))

SleepUntil = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Queue:
    """How frames wait: at most `depth`, and what a full queue does: "latest" drops the oldest that waits,
    "drop-newest" refuses the one that arrives, "unbounded" is never full."""

    policy: str
    depth: int = 1


class VirtualCamera:
    """Frames that arrive `offsets` (ns, ascending) after `start_ns`, and the queue they wait in.

    The queue is the table: a frame that waits is a pending row between `_head` and `_arrived`, and a frame that was
    dropped has its outcome there. Nothing is allocated for a frame.
    """

    def __init__(self, first: int, offsets: Sequence[int], queue: Queue, table: FrameTable, start_ns: int) -> None:
        self._words = table.words
        self._first = first
        self._offsets = offsets
        self._start_ns = start_ns
        self._depth = len(offsets) if queue.policy == "unbounded" else queue.depth
        self._keeps_latest = queue.policy == "latest"
        self._head = self._arrived = self._waiting = 0

    @property
    def next_due_ns(self) -> int | None:
        """When the next frame arrives; None when all have."""
        return self._start_ns + self._offsets[self._arrived] if self._arrived < len(self._offsets) else None

    def look(self, now_ns: int) -> bool:
        """Let everything arrive that was due by now, in order; whether anything did."""
        before = self._arrived
        while (due_ns := self.next_due_ns) is not None and due_ns <= now_ns:
            at = row_offset(self._first + self._arrived)
            self._words[at + _DUE] = due_ns
            self._words[at + _SEEN] = now_ns
            if self._waiting < self._depth:
                self._waiting += 1
            elif self._keeps_latest:
                self._words[row_offset(self._first + self._head) + _OUTCOME] = _SUPERSEDED
                self._head += 1
            else:
                self._words[at + _OUTCOME] = _QUEUE_FULL
            self._arrived += 1
        return self._arrived > before

    def take(self) -> tuple[int, int] | None:
        """The frame that has waited longest, and when it was due; None when none waits."""
        if not self._waiting:
            return None
        while self._words[row_offset(self._first + self._head) + _OUTCOME] != PENDING:
            self._head += 1
        taken = self._head
        self._head += 1
        self._waiting -= 1
        return self._first + taken, self._start_ns + self._offsets[taken]


def queued_loop(
    window: Window,
    offsets: Sequence[int],
    queue: Queue,
    table: FrameTable,
    work: Work,
    now: Clock = time.perf_counter_ns,
    sleep: SleepUntil = sleep_until,
) -> None:
    """Serve the window's frames as they arrive, to the last one that is not dropped; latency counts from `due_ns`.

    `offsets` are the arrivals, one a frame of the window, from `LEAD_NS` after now. A frame's `seen_ns` is when the
    worker looked and found it arrived: right after a sleep for it, or after the frame that it waited for. A frame is
    taken at the moment of a look that found nothing new, so no arrival lies between what the queue was and what is
    done. The rows must be prepared (`FrameTable.prepare`).
    """
    serve = server(work, table, now)
    camera = VirtualCamera(window.first, offsets, queue, table, now() + LEAD_NS)
    while True:
        looked_ns = now()
        if camera.look(looked_ns):
            continue
        taken = camera.take()
        if taken is not None:
            serve(*taken, looked_ns)
        elif (due_ns := camera.next_due_ns) is not None:
            sleep(due_ns)
        else:
            break
    table.words[0] = window.first + window.count
