"""Frames with rest between them: what an inference costs that finds the device asleep."""

from __future__ import annotations

import time

from backbench.agent.worker.loop import Clock, Window, Work, server
from backbench.agent.worker.pacing import sleep_until
from backbench.agent.worker.queued import SleepUntil
from backbench.agent.worker.table import COLUMNS, FrameTable, row_offset

_SEEN = COLUMNS.index("seen_ns")


def idle_loop(
    window: Window,
    gap_ns: int,
    table: FrameTable,
    work: Work,
    until_ns: int | None = None,
    now: Clock = time.perf_counter_ns,
    sleep: SleepUntil = sleep_until,
) -> int:
    """Serve each frame `gap_ns` after the one before it ended; returns how many, all of them due before `until_ns`.

    A frame is seen and taken when the worker wakes. The rows must be prepared (`FrameTable.prepare`).
    """
    serve = server(work, table, now)
    end_ns = now()
    for frame in range(window.first, window.first + window.count):
        due_ns = end_ns + gap_ns
        if until_ns is not None and due_ns >= until_ns:
            return frame - window.first
        sleep(due_ns)
        woken_ns = now()
        table.words[row_offset(frame) + _SEEN] = woken_ns
        end_ns = serve(frame, due_ns, woken_ns)
    return window.count
