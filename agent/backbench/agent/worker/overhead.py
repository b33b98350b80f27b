"""What the loop itself costs here and now, measured with an engine that does nothing."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise

from backbench.agent.worker.loop import Window, Work, closed_loop
from backbench.agent.worker.table import FrameTable, create

_FRAMES = 256


def loop_overhead() -> dict[str, int]:
    """Of frames without work: the service time that they show (p50 and p99, ns), and the time from one to the next.

    `loop_period_p50_ns` is everything that a frame costs besides its work. Takes about a millisecond. Percentiles are
    by nearest rank.
    """
    descriptor = create(_FRAMES)
    try:
        table = FrameTable(descriptor, _FRAMES)
        nothing = Work(_no_input, _no_engine)
        for _ in range(2):  # the second time counts: caches are warm then
            table.prepare(0, _FRAMES)
            closed_loop(Window(0, _FRAMES), table, nothing)
        columns = table.columns(0, _FRAMES)
        table.close()
    finally:
        os.close(descriptor)
    starts = columns["due_ns"]
    service = [done - start for start, done in zip(starts, columns["done_ns"], strict=True)]
    periods = [after - before for before, after in pairwise(starts)]
    return {
        "loop_overhead_p50_ns": _percentile(service, 50),
        "loop_overhead_p99_ns": _percentile(service, 99),
        "loop_period_p50_ns": _percentile(periods, 50),
    }


def _percentile(values: Sequence[int], percent: int) -> int:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def _no_input(frame: int) -> int:
    return frame & 7


def _no_engine(slot: int) -> None:
    pass
