"""Frames after a rest: due a gap after the one before them ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backbench.agent.worker import table
from backbench.agent.worker.idle import idle_loop
from backbench.agent.worker.loop import Window, Work

MakeTable = Callable[[int], table.FrameTable]
GAP_NS = 1_000_000_000


def work_on(clock: Any) -> Work:
    def infer(_: int) -> None:
        clock.now_ns += 4_000_000

    return Work(lambda frame: frame, infer)


def test_a_frame_is_due_a_gap_after_the_end_of_the_one_before(clock: Any, make_table: MakeTable) -> None:
    frames = make_table(3)
    start = clock.now_ns

    def oversleep(due_ns: int) -> None:
        clock.sleep_until(due_ns)
        clock.now_ns += 50_000

    assert idle_loop(Window(0, 3), GAP_NS, frames, work_on(clock), None, clock, oversleep) == 3
    columns = frames.columns(0, 3)
    assert columns["due_ns"][0] == start + GAP_NS
    assert columns["due_ns"][1:] == tuple(done + GAP_NS for done in columns["done_ns"][:2])
    assert columns["dequeued_ns"] == columns["seen_ns"] == tuple(due + 50_000 for due in columns["due_ns"])
    assert [done - due for due, done in zip(columns["due_ns"], columns["done_ns"], strict=True)] == [4_050_000] * 3
    assert frames.written == 3


def test_no_frame_is_due_after_the_end(clock: Any, make_table: MakeTable) -> None:
    frames = make_table(10)
    until_ns = clock.now_ns + 3_500_000_000
    assert idle_loop(Window(0, 10), GAP_NS, frames, work_on(clock), until_ns, clock, clock.sleep_until) == 3
    assert frames.written == 3
