"""What a frame costs besides its work: in the worker's loop, with an engine that does nothing."""

from __future__ import annotations

import os
import statistics
import time

from backbench.agent.worker import table
from backbench.agent.worker.counters import QuietWindow
from backbench.agent.worker.loop import Window, Work, closed_loop

_FRAMES = 20_000
_ROUNDS = 7


def loop_cost_us() -> dict[str, float]:
    """Microseconds from one frame to the next, and between the stamps of one frame, with nothing done in it."""
    costs, inside = [], []
    for _ in range(_ROUNDS):
        descriptor = table.create(_FRAMES)
        frames = table.FrameTable(descriptor, _FRAMES)
        frames.prepare(0, _FRAMES)
        with QuietWindow():
            start = time.perf_counter_ns()
            closed_loop(Window(0, _FRAMES), frames, Work(_no_input, _no_engine, timed_fill=True))
            elapsed = time.perf_counter_ns() - start
        columns = frames.columns(0, _FRAMES)
        spans = [done - due for done, due in zip(columns["done_ns"], columns["due_ns"], strict=True)]
        costs.append(elapsed / _FRAMES / 1000)
        inside.append(statistics.median(spans) / 1000)
        frames.close()
        os.close(descriptor)
    return {"loop_us_per_frame": statistics.median(costs), "within_the_stamps_us": statistics.median(inside)}


def _no_input(frame: int) -> int:
    return frame & 7


def _no_engine(slot: int) -> None:
    pass


if __name__ == "__main__":
    for name, value in loop_cost_us().items():
        print(f"{name}: {value:.3f}")
