"""Which launches a run has: replicates, steps of streams, and a search for the highest rate that holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.agent.launches import (
    PROBE_LIMIT,
    FramesLost,
    Outcome,
    Setting,
    Tally,
    steps,
    stream_counts,
)
from backbench.domain.arrivals import HIGHEST_RATE_MHZ
from backbench.domain.frame import OUTCOME_NUMBERS, FrameBlock, FrameOutcome
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import SECOND_NS, ModelRef, RunSpec, Scenario, ScenarioName

DONE, SUPERSEDED, ERRORED = (
    OUTCOME_NUMBERS[each] for each in (FrameOutcome.COMPLETED, FrameOutcome.SUPERSEDED, FrameOutcome.ERRORED)
)


def spec(scenario: Scenario, launches: int = 1) -> RunSpec:
    return RunSpec(new_run_id(), ModelRef("m", "0" * 64, "file"), 8, 8, scenario=scenario, launches=launches)


def played(scenario: Scenario, play: Callable[[Setting], Outcome], launches: int = 1) -> list[Setting]:
    """Every setting, when a launch comes out as `play` says."""
    following, settings = steps(spec(scenario, launches), 2_000_000), []
    try:
        setting = next(following)
        while True:
            settings.append(setting)
            setting = following.send(play(setting))
    except StopIteration:
        return settings


def fine(setting: Setting) -> Outcome:
    return Outcome(setting.frame_count, 0, 1e6)


def device_that_holds(limit_mhz: int) -> Callable[[Setting], Outcome]:
    """Up to a rate every frame is in time, above it none."""

    def play(setting: Setting) -> Outcome:
        late = setting.rate_mhz is not None and setting.rate_mhz > limit_mhz
        return Outcome(setting.frame_count, setting.frame_count if late else 0, 10**12 / (limit_mhz * 1.1))

    return play


def test_launches_are_all_alike() -> None:
    paced = Scenario(ScenarioName.PACED, frame_count=40, rate_mhz=30_000)
    assert played(paced, fine, launches=3) == [Setting(40, 30_000)] * 3


def test_a_duration_gives_the_frames_of_a_constant_rate_and_an_upper_limit_otherwise() -> None:
    paced = Scenario(ScenarioName.SOAK, frame_count=None, duration_ns=90 * SECOND_NS, rate_mhz=29_970)
    assert played(paced, fine) == [Setting(2698, 29_970, 90 * SECOND_NS)]
    loop = Scenario(ScenarioName.SOAK, frame_count=None, warmup_frame_count=20, duration_ns=90 * SECOND_NS)
    assert played(loop, fine) == [Setting(1_999_980, None, 90 * SECOND_NS)]


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8])])
def test_streams_double_up_to_their_number(most: int, counts: list[int]) -> None:
    assert stream_counts(most) == counts
    streams = Scenario(ScenarioName.STREAMS, frame_count=10, streams=most)
    assert [setting.streams for setting in played(streams, fine)] == counts


@given(limit=st.integers(100, 500_000), highest=st.one_of(st.none(), st.integers(100, 1_000_000)))
def test_a_sweep_ends_within_two_per_cent_of_the_highest_rate_that_holds(limit: int, highest: int | None) -> None:
    scenario = Scenario(ScenarioName.SWEEP, frame_count=100, rate_mhz=highest, miss_ratio_ppm=10_000)
    settings = played(scenario, device_that_holds(limit))
    rates = [setting.rate_mhz for setting in settings if setting.rate_mhz is not None]
    assert len(settings) <= PROBE_LIMIT
    assert len(set(rates)) == len(rates)
    held = max((rate for rate in rates if rate <= limit), default=None)
    if highest is not None and highest <= limit:
        assert rates == [highest]
    elif highest is None or highest < 32 * limit:
        assert held is not None
        assert held * 1.02 + 1 >= limit or min(rate for rate in rates if rate > limit) <= held * 1.02 + 1


def test_a_sweep_of_a_device_on_which_nothing_runs_ends_at_once() -> None:
    scenario = Scenario(ScenarioName.SWEEP, frame_count=100, miss_ratio_ppm=10_000)
    assert played(scenario, lambda setting: Outcome(setting.frame_count, setting.frame_count, None)) == [Setting(100)]


def test_a_sweep_holds_when_exactly_the_tolerated_share_is_missed() -> None:
    scenario = Scenario(ScenarioName.SWEEP, frame_count=100, rate_mhz=30_000, miss_ratio_ppm=10_000)
    assert len(played(scenario, lambda _: Outcome(100, 1, 1e6))) == 1
    assert len(played(scenario, lambda _: Outcome(100, 2, 1e6))) > 1


def test_late_dropped_and_failed_frames_are_missed_and_warm_up_is_not_counted() -> None:
    tally = Tally(10)
    tally.add(
        FrameBlock(
            launch=0,
            index=(0, 1, 2, 3, 4),
            due_ns=(0, 100, 200, 300, 400),
            dequeued_ns=(0, 100, 205, None, 400),
            done_ns=(90, 110, 211, None, None),
            outcome=(DONE, DONE, DONE, SUPERSEDED, ERRORED),
            tags=(1, 0, 0, 0, 0),
            input=(0,) * 5,
        )
    )
    assert tally.outcome() == Outcome(4, 3, 8.0)
    assert Tally(None).outcome() == Outcome(0, 0, None)
    tally.check(4)
    for wrong in (3, 5):
        with pytest.raises(FramesLost):
            tally.check(wrong)


def test_a_row_without_an_outcome_is_a_lost_frame() -> None:
    tally = Tally(None)
    tally.add(
        FrameBlock(
            0, index=(0,), due_ns=(0,), dequeued_ns=(None,), done_ns=(None,), outcome=(0,), tags=(0,), input=(0,)
        )
    )
    with pytest.raises(FramesLost, match="1 frames arrived and 0 of 1"):
        tally.check(1)


def test_a_sweep_of_a_fast_device_tries_no_rate_above_the_highest() -> None:
    scenario = Scenario(ScenarioName.SWEEP, frame_count=100, miss_ratio_ppm=10_000)
    settings = played(scenario, lambda setting: Outcome(setting.frame_count, 0, 1000.0))
    assert [setting.rate_mhz for setting in settings] == [None, HIGHEST_RATE_MHZ]
