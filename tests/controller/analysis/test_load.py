"""What a stream of arrivals met."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.controller.analysis.latency import counts
from backbench.controller.analysis.load import load_document
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome

BASE = 2**60  # where float64 would have lost the nanoseconds
MS = 1_000_000
PERIOD_NS = 10**9 // 30
COMPLETED, SUPERSEDED, QUEUE_FULL, SHUTDOWN, ERRORED = (OUTCOME_NUMBERS[outcome] for outcome in FrameOutcome)
ABSENT = -1


def columns(rows: Sequence[Sequence[int]], launch: Sequence[int] | None = None, warm_up: int = 0) -> dict[str, Any]:
    """From rows of (due, seen, dequeued, done, outcome) in ns after the start; `ABSENT` where not reached."""
    table = np.array(rows, np.int64).reshape(-1, 5)
    times = {
        name: np.ma.MaskedArray(table[:, place] + BASE, mask=table[:, place] == ABSENT)
        for place, name in enumerate(("due_ns", "seen_ns", "dequeued_ns", "done_ns"))
    }
    return {
        **times,
        "launch": np.ma.MaskedArray(np.zeros(len(table), np.int64) if launch is None else np.array(launch, np.int64)),
        "tags": np.ma.MaskedArray((np.arange(len(table)) < warm_up).astype(np.int64)),
        "outcome": np.ma.MaskedArray(table[:, 4]),
    }


def camera(service_ns: Sequence[int], period_ns: int, depth: int | None, *, keep_newest: bool = True) -> dict[str, Any]:
    """The frames of one server behind a queue, at a constant rate; a full queue drops its oldest or the arriving frame.

    `depth` None is an unbounded queue.
    """
    rows = [[index * period_ns, ABSENT, ABSENT, ABSENT, 0] for index in range(len(service_ns))]
    waiting: deque[int] = deque()
    now, arrived = 0, 0
    while waiting or arrived < len(rows):
        if not waiting:
            now = max(now, rows[arrived][0])
        while arrived < len(rows) and rows[arrived][0] <= now:
            rows[arrived][1] = now
            if depth is None or len(waiting) < depth:
                waiting.append(arrived)
            elif keep_newest:
                rows[waiting.popleft()][4] = SUPERSEDED
                waiting.append(arrived)
            else:
                rows[arrived][4] = QUEUE_FULL
            arrived += 1
        served = waiting.popleft()
        rows[served][2:] = [now, now + service_ns[served], COMPLETED]
        now += service_ns[served]
    return columns(rows)


def stalled(count: int = 18_000, every: int = 900) -> list[int]:
    """20 ms of service, and a stall of 1 s once in 30 s."""
    return [1_000 * MS if index % every == every // 2 else 20 * MS for index in range(count)]


def test_a_stall_shows_up_in_the_tail_where_nothing_is_dropped() -> None:
    frames = camera(stalled(), PERIOD_NS, None)
    told = load_document(frames, deadline_ns=PERIOD_NS, period_ns=PERIOD_NS)
    assert told["p99_offered_ms"]["infinite"] is False
    assert told["p99_offered_ms"]["value"] > 800
    assert told["drop_ratio"]["value"] == 0
    assert told["miss_ratio"]["value"] == pytest.approx(0.087, abs=0.01)
    assert told["output_gap_ms"]["max"] >= 1000


def test_a_stall_shows_up_as_drops_where_the_newest_frame_wins() -> None:
    frames = camera(stalled(), PERIOD_NS, 1)
    told = load_document(frames, deadline_ns=PERIOD_NS, period_ns=PERIOD_NS)
    assert told["drop_episodes"] == 20
    assert told["longest_drop_run"] == pytest.approx(29, abs=1)
    assert told["dropped"] == {"superseded": pytest.approx(580, abs=20), "queue_full": 0, "shutdown": 0}
    assert told["drop_ratio"]["low"] < told["drop_ratio"]["value"] < told["drop_ratio"]["high"]
    assert told["p99_offered_ms"] == {"value": None, "infinite": True}
    assert told["miss_ratio"]["value"] > told["drop_ratio"]["value"]
    assert told["output_gap_ms"]["max"] >= 1000
    assert told["age_of_information_ms"]["peak"] >= 1000


def test_a_stall_does_not_pass_for_a_late_pacer() -> None:
    told = load_document(camera(stalled(), PERIOD_NS, 1), deadline_ns=None, period_ns=PERIOD_NS)
    assert told["pacer_lateness_ms"] == {"p50": 0.0, "p99": 0.0, "max": 0.0}
    assert told["pacer_late"] is False


def test_a_frame_that_came_while_another_was_served_does_not_pass_for_a_late_pacer() -> None:
    warm_up = (0, 0, 0, 15, COMPLETED)
    failed = (40, 40, 40, ABSENT, ERRORED)
    rows = [warm_up, (10, 15, 15, 16, COMPLETED), (20, 21, 21, 25, COMPLETED), failed, (50, 58, 58, 60, COMPLETED)]
    told = load_document(columns(rows, warm_up=1), deadline_ns=None, period_ns=1000)
    assert told["pacer_lateness_ms"] == {"p50": 0.0, "p99": 1e-6, "max": 1e-6}
    assert told["pacer_late"] is False


@pytest.mark.parametrize(("late_ns", "late"), [(99_000, False), (101_000, True)])
def test_a_pacer_is_late_above_a_hundredth_of_a_period(late_ns: int, late: bool) -> None:
    rows = [(k * 10 * MS, k * 10 * MS + late_ns, k * 10 * MS + late_ns, k * 10 * MS + MS, COMPLETED) for k in range(50)]
    told = load_document(columns(rows), deadline_ns=None, period_ns=10 * MS)
    assert told["pacer_late"] is late
    assert told["pacer_lateness_ms"] == {"p50": late_ns / MS, "p99": late_ns / MS, "max": late_ns / MS}


def test_the_age_of_information_is_the_exact_area_under_its_sawtooth() -> None:
    rows = [(0, 0, 0, 2, COMPLETED), (10, 10, 10, 16, COMPLETED), (20, 20, 20, ABSENT, SUPERSEDED)]
    told = load_document(columns([[*(t * MS if t > 0 else t for t in row[:4]), row[4]] for row in rows]),
                         deadline_ns=None, period_ns=None)  # fmt: skip
    # from 2 ms on: age 2 to 16 over 14 ms, then 6 to 10 over 4 ms until the last arrival
    assert told["age_of_information_ms"] == {"mean": (14 * 9 + 4 * 8) / 18, "peak": 16.0}


def test_a_late_result_of_an_older_frame_makes_nothing_newer() -> None:
    rows = [(0, 0, 0, 30, COMPLETED), (10, 10, 10, 20, COMPLETED)]
    told = load_document(
        columns([[*(t * MS for t in row[:4]), row[4]] for row in rows]), deadline_ns=None, period_ns=None
    )
    assert told["age_of_information_ms"] == {"mean": 15.0, "peak": 20.0}


def test_what_was_late_dropped_or_errored_is_a_miss() -> None:
    rows = [
        (0, 0, 0, 5 * MS, COMPLETED),
        (10 * MS, 10 * MS, 10 * MS, 25 * MS, COMPLETED),
        (20 * MS, 25 * MS, ABSENT, ABSENT, QUEUE_FULL),
        (30 * MS, 30 * MS, 30 * MS, ABSENT, ERRORED),
    ]
    told = load_document(columns(rows), deadline_ns=10 * MS, period_ns=10 * MS)
    assert told["deadline_ms"] == 10.0
    assert told["miss_ratio"]["value"] == 0.75
    assert told["drop_ratio"]["value"] == 0.25
    assert told["utilisation"] == pytest.approx(1.0)


def test_rows_that_were_written_out_of_order_are_read_by_their_arrival() -> None:
    dropped = [(k * MS, k * MS, ABSENT, ABSENT, SUPERSEDED) for k in (1, 2, 4)]
    rows = [*dropped, (0, 0, 0, MS, COMPLETED), (3 * MS, 3 * MS, 3 * MS, 4 * MS, COMPLETED)]
    told = load_document(columns(rows), deadline_ns=None, period_ns=None)
    assert (told["longest_drop_run"], told["drop_episodes"]) == (2, 2)


def test_the_pause_between_launches_is_no_gap_and_no_age() -> None:
    rows = [(k * 10 * MS, k * 10 * MS, k * 10 * MS, k * 10 * MS + MS, COMPLETED) for k in (0, 1, 2, 900, 901, 902)]
    told = load_document(columns(rows, launch=[0, 0, 0, 1, 1, 1]), deadline_ns=None, period_ns=10 * MS)
    assert told["output_gap_ms"] == {"p99": None, "max": 10.0}
    assert told["age_of_information_ms"]["peak"] == 11.0
    assert told["utilisation"] == pytest.approx(0.1)


def test_what_cannot_be_told_is_none() -> None:
    nothing = load_document(columns([(0, 0, 0, 1, COMPLETED)], warm_up=1), deadline_ns=1, period_ns=1)
    unknown = {name for name, value in nothing.items() if value is None}
    assert unknown == {
        "drop_ratio", "miss_ratio", "output_gap_ms", "age_of_information_ms", "pacer_lateness_ms", "pacer_late",
        "utilisation",
    }  # fmt: skip
    assert nothing["p99_offered_ms"] == {"value": None, "infinite": None}
    one = load_document(columns([(0, ABSENT, 0, 1, COMPLETED)]), deadline_ns=None, period_ns=None)
    assert one["miss_ratio"] is None
    assert one["output_gap_ms"] is None
    assert one["pacer_lateness_ms"] is None
    assert one["age_of_information_ms"] == {"mean": None, "peak": 1e-6}


service_times = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(lambda found: [each * MS for each in found])


@given(service_times, st.one_of(st.none(), st.integers(1, 4)), st.booleans(), st.integers(1, 30), st.integers(0, 20))
def test_every_frame_that_is_offered_is_accounted_for(
    service_ns: list[int], depth: int | None, keep_newest: bool, period_ms: int, deadline_ms: int
) -> None:
    frames = camera(service_ns, period_ms * MS, depth, keep_newest=keep_newest)
    count = counts(frames)
    told = load_document(frames, deadline_ns=deadline_ms * MS, period_ns=period_ms * MS)
    assert count["offered"] == len(service_ns) == count["completed"] + count["dropped"] + count["errored"]
    assert sum(told["dropped"].values()) == count["dropped"]
    assert told["drop_ratio"]["value"] == count["dropped"] / count["offered"]
    assert 0 <= told["drop_ratio"]["low"] <= told["drop_ratio"]["value"] <= told["drop_ratio"]["high"] <= 1
    assert told["drop_ratio"]["value"] <= told["miss_ratio"]["value"] <= 1
    assert told["drop_episodes"] <= count["dropped"] <= told["drop_episodes"] * told["longest_drop_run"]
    assert told["pacer_lateness_ms"]["max"] == 0
    age = told["age_of_information_ms"]
    assert min(service_ns) / MS <= age["peak"]
    assert age["mean"] is None or age["mean"] <= age["peak"]


outcomes = st.lists(st.sampled_from([COMPLETED, SUPERSEDED, QUEUE_FULL, SHUTDOWN, ERRORED]), max_size=50)


@given(outcomes, st.integers(0, 5))
def test_offered_is_completed_and_dropped_and_errored_whatever_happened(ends: list[int], warm_up: int) -> None:
    rows = [
        (k, k, k if end in (COMPLETED, ERRORED) else ABSENT, k + 1 if end == COMPLETED else ABSENT, end)
        for k, end in enumerate(ends)
    ]
    frames = columns(rows, warm_up=warm_up)
    count = counts(frames)
    told = load_document(frames, deadline_ns=1, period_ns=1)
    assert count["offered"] == max(len(ends) - warm_up, 0)
    assert count["offered"] == count["completed"] + sum(told["dropped"].values()) + count["errored"]
    assert (told["longest_drop_run"] == 0) == (count["dropped"] == 0)
