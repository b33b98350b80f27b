"""The virtual camera: exactly what a producer beside the worker would have done, stalls and all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.agent.worker import table
from backbench.agent.worker.loop import Window, Work
from backbench.agent.worker.queued import LEAD_NS, Queue, queued_loop
from backbench.agent.worker.table import COLUMNS, NOT_REACHED, PENDING, WIDTH, row_offset
from backbench.domain.arrivals import constant_due_ns
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome

MakeTable = Callable[[int], table.FrameTable]
Columns = dict[str, tuple[int, ...]]
COMPLETED, SUPERSEDED, QUEUE_FULL, ERRORED = (
    OUTCOME_NUMBERS[each]
    for each in (FrameOutcome.COMPLETED, FrameOutcome.SUPERSEDED, FrameOutcome.QUEUE_FULL, FrameOutcome.ERRORED)
)
OUTCOME = COLUMNS.index("outcome")
MS = 1_000_000


class Simulation:
    """A queued loop on a clock of its own: service times by frame, frames that raise, and sleeps that end late."""

    def __init__(self, rows: int) -> None:
        self.now_ns = 7 * MS
        self.descriptor = table.create(rows)
        self.frames = table.FrameTable(self.descriptor, rows)
        self.frames.prepare(0, rows)
        self.served: list[int] = []
        self.unfinished_rows = 0
        self.late_ns = 0

    def now(self) -> int:
        return self.now_ns

    def sleep(self, due_ns: int) -> None:
        assert due_ns > self.now_ns
        self.now_ns = due_ns + self.late_ns

    def run(self, offsets: Sequence[int], service: Callable[[int], int], queue: Queue, failing: int = -1) -> Columns:
        def fill(frame: int) -> int:
            self.served.append(frame)
            written = self.frames.written
            outcomes = self.frames.words[row_offset(max(0, written - 50)) + OUTCOME : row_offset(written) : WIDTH]
            self.unfinished_rows += list(outcomes).count(PENDING)
            return frame

        def infer(frame: int) -> None:
            self.now_ns += service(frame)
            if frame == failing:
                raise RuntimeError("this frame fails")

        queued_loop(Window(0, len(offsets)), offsets, queue, self.frames, Work(fill, infer), self.now, self.sleep)
        return self.frames.columns(0, len(offsets))


def expected(
    due: Sequence[int], service: Sequence[int], policy: str, depth: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Outcomes and starts by an event at a time, with a list for a queue: what the loop must come to."""
    outcomes: dict[int, int] = {}
    starts: dict[int, int] = {}
    waiting: list[int] = []
    free_ns = 0

    def serve_until(moment: float) -> None:
        nonlocal free_ns
        while waiting and max(free_ns, due[waiting[0]]) < moment:
            frame = waiting.pop(0)
            starts[frame] = max(free_ns, due[frame])
            free_ns = starts[frame] + service[frame]
            outcomes[frame] = COMPLETED

    for frame, moment in enumerate(due):
        serve_until(moment)
        if policy == "unbounded" or len(waiting) < depth:
            waiting.append(frame)
        elif policy == "latest":
            outcomes[waiting.pop(0)] = SUPERSEDED
            waiting.append(frame)
        else:
            outcomes[frame] = QUEUE_FULL
    serve_until(math.inf)
    return outcomes, starts


LOADS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 9, 20, 35, 400])), min_size=0, max_size=60)


@given(LOADS, st.sampled_from(["latest", "drop-newest", "unbounded"]), st.integers(1, 5))
def test_whatever_the_load_the_queue_is_what_a_producer_would_have_left(
    load: list[tuple[int, int]], policy: str, depth: int
) -> None:
    offsets = [sum(gap for gap, _ in load[: place + 1]) for place in range(len(load))]
    service = [time for _, time in load]
    simulation = Simulation(len(load))
    columns = simulation.run(offsets, service.__getitem__, Queue(policy, depth))
    start = 7 * MS + LEAD_NS
    due = [start + offset for offset in offsets]
    outcomes, starts = expected(due, service, policy, depth)
    assert columns["due_ns"] == tuple(due)
    assert columns["outcome"] == tuple(outcomes[frame] for frame in range(len(load)))
    assert columns["dequeued_ns"] == tuple(starts.get(frame, NOT_REACHED) for frame in range(len(load)))
    assert simulation.served == sorted(starts)
    assert simulation.unfinished_rows == 0
    assert simulation.frames.written == len(load)


@given(LOADS, st.sampled_from(["latest", "drop-newest", "unbounded"]), st.integers(1, 5), st.integers(0, 90))
def test_every_frame_has_one_outcome_and_its_times_in_order_however_late_the_sleeps_end(
    load: list[tuple[int, int]], policy: str, depth: int, late_ns: int
) -> None:
    offsets = [sum(gap for gap, _ in load[: place + 1]) for place in range(len(load))]
    simulation = Simulation(len(load))
    simulation.late_ns = late_ns
    columns = simulation.run(offsets, lambda frame: load[frame][1], Queue(policy, depth), failing=len(load) // 2)
    outcomes = columns["outcome"]
    dropped = outcomes.count(SUPERSEDED) + outcomes.count(QUEUE_FULL)
    assert len(load) == outcomes.count(COMPLETED) + dropped + outcomes.count(ERRORED)
    for frame, outcome in enumerate(outcomes):
        due, seen, taken, done = (columns[name][frame] for name in ("due_ns", "seen_ns", "dequeued_ns", "done_ns"))
        assert due <= seen
        assert (taken == NOT_REACHED) == (outcome in (SUPERSEDED, QUEUE_FULL))
        assert (done == NOT_REACHED) == (outcome != COMPLETED)
        assert taken == NOT_REACHED or seen <= taken
        assert done == NOT_REACHED or taken <= done
    if policy == "unbounded":
        assert dropped == 0


FRAMES = 18_000
STALL_EVERY = 900  # frames: 30 s


def camera(queue: Queue) -> Columns:
    """Ten minutes at 30 frames a second, 20 ms of service, and 1 s in one frame of every 900."""
    offsets = [constant_due_ns(frame, 30_000) for frame in range(FRAMES)]
    stalls_at = {frame for frame in range(FRAMES) if frame % STALL_EVERY == STALL_EVERY // 2}
    return Simulation(FRAMES).run(offsets, lambda frame: 1000 * MS if frame in stalls_at else 20 * MS, queue)


def latencies_ms(columns: Columns) -> list[float]:
    pairs = zip(columns["due_ns"], columns["done_ns"], strict=True)
    return sorted((done - due) / MS for due, done in pairs if done != NOT_REACHED)


def longest_gap_ms(columns: Columns) -> float:
    done = [each for each in columns["done_ns"] if each != NOT_REACHED]
    return max(after - before for before, after in pairwise(done)) / MS


def percentile(ascending: Sequence[float], share: float) -> float:
    return ascending[math.ceil(len(ascending) * share) - 1]


def test_a_stall_shows_up_as_latency_where_nothing_is_dropped() -> None:
    columns = camera(Queue("unbounded"))
    latencies = latencies_ms(columns)
    assert columns["outcome"].count(COMPLETED) == FRAMES
    assert percentile(latencies, 0.5) == pytest.approx(20, abs=1)
    assert percentile(latencies, 0.99) > 800
    assert longest_gap_ms(columns) >= 1000


def test_a_stall_shows_up_as_drops_where_the_newest_frame_wins() -> None:
    columns = camera(Queue("latest", 1))
    drops = [
        columns["outcome"][first : first + STALL_EVERY].count(SUPERSEDED) for first in range(0, FRAMES, STALL_EVERY)
    ]
    assert len(drops) == FRAMES // STALL_EVERY
    assert all(abs(each - 29) <= 1 for each in drops)
    assert percentile(latencies_ms(columns), 0.99) < 40
    assert longest_gap_ms(columns) >= 1000


def test_a_deeper_queue_drops_less_and_waits_longer() -> None:
    shallow, deep = camera(Queue("latest", 1)), camera(Queue("latest", 4))
    assert 0 < deep["outcome"].count(SUPERSEDED) < shallow["outcome"].count(SUPERSEDED)
    assert percentile(latencies_ms(deep), 0.99) > percentile(latencies_ms(shallow), 0.99)
    assert percentile(latencies_ms(deep), 0.995) > percentile(latencies_ms(shallow), 0.995) + 20
    assert longest_gap_ms(deep) >= 1000


def test_a_full_queue_that_refuses_the_newest_keeps_those_that_wait() -> None:
    offsets = [0, 10, 20, 30, 40]
    columns = Simulation(5).run(offsets, lambda _: 100, Queue("drop-newest", 2))
    assert columns["outcome"] == (COMPLETED, COMPLETED, COMPLETED, QUEUE_FULL, QUEUE_FULL)
    assert columns["seen_ns"][1:] == (columns["done_ns"][0],) * 4


def test_arrivals_do_not_drift_from_the_schedule() -> None:
    offsets = [constant_due_ns(frame, 29_970) for frame in range(20_000)]
    columns = Simulation(20_000).run(offsets, lambda _: 5 * MS, Queue("latest"))
    start = columns["due_ns"][0]
    assert all(due - start == frame * 10**12 // 29_970 for frame, due in enumerate(columns["due_ns"]))
    assert columns["seen_ns"] == columns["due_ns"] == columns["dequeued_ns"]


def test_a_frame_that_raises_is_errored_and_the_schedule_goes_on() -> None:
    offsets = [frame * 30 * MS for frame in range(9)]
    columns = Simulation(9).run(offsets, lambda _: 20 * MS, Queue("latest"), failing=4)
    assert columns["outcome"] == (COMPLETED,) * 4 + (ERRORED,) + (COMPLETED,) * 4
    assert columns["done_ns"][4] == NOT_REACHED
    assert columns["dequeued_ns"] == columns["due_ns"]


def test_frames_follow_those_of_the_warm_up(clock: Any, make_table: MakeTable) -> None:
    frames = make_table(6)
    frames.words[row_offset(0)] = -9
    served: list[int] = []
    work = Work(lambda frame: frame, served.append)
    queued_loop(Window(2, 4), [0, 1, 2, 3], Queue("unbounded"), frames, work, clock, clock.sleep_until)
    assert served == [2, 3, 4, 5]
    assert frames.written == 6
    assert frames.columns(2, 6)["due_ns"] == tuple(1_000_000 + LEAD_NS + offset for offset in range(4))
    assert frames.words[row_offset(0)] == -9
