"""The timed window: exact spans, errored frames kept, no collection inside."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from backbench.agent.worker import table
from backbench.agent.worker.loop import QuietWindow, Window, closed_loop
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome, FrameTag


class Clock:
    """Advances only by work."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def frames() -> Iterator[table.FrameTable]:
    descriptor = table.create(10)
    opened = table.FrameTable(descriptor, 10)
    opened.touch()
    yield opened
    opened.close()
    os.close(descriptor)


def run(frames: table.FrameTable, window: Window, failing: int = -1, timed_fill: bool = True) -> None:
    clock = Clock()

    def fill(frame: int) -> int:
        clock.now_ns += 300
        return frame % 2

    def infer(slot: int) -> None:
        clock.now_ns += 5000 + slot
        if clock.now_ns and frames.written == failing:
            raise RuntimeError("this frame fails")

    closed_loop(window, frames, fill, infer, 3, timed_fill, clock)


def test_every_span_is_what_the_clock_says(frames: table.FrameTable) -> None:
    run(frames, Window(0, 4, 0))
    columns = frames.columns(0, 4)
    assert frames.written == 4
    assert columns["index"] == (0, 1, 2, 3)
    assert columns["input"] == (0, 1, 2, 0)
    assert columns["preprocess_ns"] == (300,) * 4
    assert columns["compute_ns"] == (5000, 5001, 5000, 5001)
    assert columns["due_ns"] == columns["dequeued_ns"]
    assert columns["dequeued_ns"][0] == 1_000_000
    done = [end - start for end, start in zip(columns["done_ns"], columns["dequeued_ns"], strict=True)]
    assert done == [5300, 5301, 5300, 5301]


def test_input_that_was_made_beforehand_has_no_preprocess_span(frames: table.FrameTable) -> None:
    run(frames, Window(0, 2, 0), timed_fill=False)
    assert frames.columns(0, 2)["preprocess_ns"] == (table.NOT_REACHED,) * 2


def test_a_frame_that_raises_is_errored_and_the_next_one_follows(frames: table.FrameTable) -> None:
    run(frames, Window(0, 4, 0), failing=1)
    columns = frames.columns(0, 4)
    completed, errored = (OUTCOME_NUMBERS[each] for each in (FrameOutcome.COMPLETED, FrameOutcome.ERRORED))
    assert columns["outcome"] == (completed, errored, completed, completed)
    assert columns["done_ns"][1] == columns["compute_ns"][1] == columns["preprocess_ns"][1] == table.NOT_REACHED


def test_warm_up_frames_are_tagged_and_the_window_goes_on_from_them(frames: table.FrameTable) -> None:
    run(frames, Window(0, 2, FrameTag.WARM_UP.value))
    run(frames, Window(2, 3, 0))
    assert frames.columns(0, 5)["tags"] == (1, 1, 0, 0, 0)
    assert frames.written == 5


def test_the_window_holds_the_collector_off_and_gives_it_back() -> None:
    assert gc.isenabled()
    with QuietWindow() as quiet:
        assert not gc.isenabled()
    assert gc.isenabled()
    assert quiet.counters["garbage_collection_count"] == 0


def test_a_collection_inside_the_window_is_counted() -> None:
    with QuietWindow() as quiet:
        gc.collect()
    assert quiet.counters["garbage_collection_count"] == 1
