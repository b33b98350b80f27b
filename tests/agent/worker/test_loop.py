"""Frames back to back: exact spans, errored frames kept, an end by time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backbench.agent.worker import table
from backbench.agent.worker.loop import Window, Work, closed_loop, server
from backbench.agent.worker.table import NOT_REACHED
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome

MakeTable = Callable[[int], table.FrameTable]
COMPLETED, ERRORED = (OUTCOME_NUMBERS[each] for each in (FrameOutcome.COMPLETED, FrameOutcome.ERRORED))


def work_on(clock: Any, failing: int = -1, **parts: Any) -> Work:
    """300 ns to make an input, 5 us an inference and 1 ns more in the second slot."""
    begun: list[int] = []

    def fill(frame: int) -> int:
        clock.now_ns += 300
        begun.append(frame)
        return frame % 2

    def infer(slot: int) -> None:
        clock.now_ns += 5000 + slot
        if begun[-1] == failing:
            raise RuntimeError("this frame fails")

    return Work(fill, infer, **{"timed_fill": True, **parts})


@pytest.fixture
def frames(make_table: MakeTable) -> table.FrameTable:
    return make_table(10)


def test_every_span_is_what_the_clock_says(clock: Any, frames: table.FrameTable) -> None:
    assert closed_loop(Window(0, 4), frames, work_on(clock), now=clock) == 4
    columns = frames.columns(0, 4)
    assert frames.written == 4
    assert columns["index"] == (0, 1, 2, 3)
    assert columns["outcome"] == (COMPLETED,) * 4
    assert columns["preprocess_ns"] == (300,) * 4
    assert columns["compute_ns"] == (5000, 5001, 5000, 5001)
    assert columns["due_ns"] == columns["dequeued_ns"]
    assert columns["dequeued_ns"][0] == 1_000_000
    done = [end - start for start, end in zip(columns["dequeued_ns"], columns["done_ns"], strict=True)]
    assert done == [5300, 5301, 5300, 5301]
    for unmeasured in ("seen_ns", "host_to_device_ns", "device_to_host_ns", "postprocess_ns"):
        assert columns[unmeasured] == (NOT_REACHED,) * 4


def test_input_that_was_made_beforehand_has_no_preprocess_span(clock: Any, frames: table.FrameTable) -> None:
    closed_loop(Window(0, 2), frames, work_on(clock, timed_fill=False), now=clock)
    assert frames.columns(0, 2)["preprocess_ns"] == (NOT_REACHED,) * 2


def test_postprocessing_is_a_span_within_the_time_of_the_frame(clock: Any, frames: table.FrameTable) -> None:
    def postprocess() -> None:
        clock.now_ns += 70

    closed_loop(Window(0, 2), frames, work_on(clock, postprocess=postprocess), now=clock)
    columns = frames.columns(0, 2)
    assert columns["postprocess_ns"] == (70, 70)
    assert columns["compute_ns"] == (5000, 5001)
    assert [columns["done_ns"][row] - columns["due_ns"][row] for row in (0, 1)] == [5370, 5371]


def test_a_device_that_tells_its_times_apart_has_all_three_and_costs_no_frame(
    clock: Any, frames: table.FrameTable
) -> None:
    def spans() -> tuple[int, int, int]:
        clock.now_ns += 1_000_000
        return 11, 22, 33

    closed_loop(Window(0, 2), frames, work_on(clock, spans=spans), now=clock)
    columns = frames.columns(0, 2)
    assert columns["host_to_device_ns"] == (11, 11)
    assert columns["compute_ns"] == (22, 22)
    assert columns["device_to_host_ns"] == (33, 33)
    assert [columns["done_ns"][row] - columns["due_ns"][row] for row in (0, 1)] == [5300, 5301]


def test_a_frame_that_raises_is_errored_and_the_next_one_follows(clock: Any, frames: table.FrameTable) -> None:
    errors: list[Exception] = []
    assert closed_loop(Window(0, 4), frames, work_on(clock, failing=1, failed=errors.append), now=clock) == 4
    columns = frames.columns(0, 4)
    assert columns["outcome"] == (COMPLETED, ERRORED, COMPLETED, COMPLETED)
    assert columns["done_ns"][1] == columns["compute_ns"][1] == columns["preprocess_ns"][1] == NOT_REACHED
    assert columns["due_ns"][1] == columns["dequeued_ns"][1] == 1_000_000 + 5300
    assert [str(error) for error in errors] == ["this frame fails"]


def test_what_a_failed_frame_leads_to_may_end_the_window_after_its_row(clock: Any, frames: table.FrameTable) -> None:
    def failed(error: Exception) -> None:
        raise error

    with pytest.raises(RuntimeError, match="this frame fails"):
        closed_loop(Window(0, 4), frames, work_on(clock, failing=2, failed=failed), now=clock)
    assert frames.written == 3
    assert frames.columns(0, 3)["outcome"] == (COMPLETED, COMPLETED, ERRORED)


def test_a_window_goes_on_from_the_one_before_it(clock: Any, frames: table.FrameTable) -> None:
    work = work_on(clock)
    closed_loop(Window(0, 2), frames, work, now=clock)
    closed_loop(Window(2, 3), frames, work, now=clock)
    assert frames.written == 5
    assert frames.columns(0, 5)["outcome"] == (COMPLETED,) * 5


def test_a_window_that_ends_by_time_begins_no_frame_after_it(clock: Any, frames: table.FrameTable) -> None:
    until_ns = clock.now_ns + 3 * 5300
    assert closed_loop(Window(0, 10), frames, work_on(clock), until_ns, clock) == 3
    assert frames.written == 3
    assert max(frames.columns(0, 3)["due_ns"]) < until_ns


def test_serving_gives_the_moment_of_the_end(clock: Any, frames: table.FrameTable) -> None:
    serve = server(work_on(clock, failing=1), frames, clock)
    assert serve(0, 7, clock.now_ns) == clock.now_ns
    assert serve(1, 8, clock.now_ns) == clock.now_ns
    assert frames.columns(0, 2)["due_ns"] == (7, 8)
