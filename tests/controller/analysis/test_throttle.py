"""The verdict on throttling, against telemetry whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.controller.boards import after, columns, constant, frames, read, steps

from backbench.controller.analysis.telemetry import merged, overlaps, telemetry_gaps, telemetry_series, timed_windows
from backbench.controller.analysis.throttle import judge_throttling, throttled_tags, throttling_document
from backbench.domain.telemetry import TelemetryBlock

SECONDS = 10.0
FRAMES = columns(frames(SECONDS))
WINDOWS = timed_windows(FRAMES)


def judged(*blocks: TelemetryBlock) -> dict[str, Any]:
    return throttling_document(judge_throttling(telemetry_series(blocks), WINDOWS), WINDOWS)


def tags(*blocks: TelemetryBlock) -> Any:
    return throttled_tags(FRAMES, judge_throttling(telemetry_series(blocks), WINDOWS))


def flag(
    name: str, value: Callable[[float], int | None], source: str = "thermal", rate_hz: float = 5
) -> TelemetryBlock:
    channels: dict[str, Any] = {name: value}
    return read(source, SECONDS, rate_hz, **channels)


def test_without_a_witness_there_is_no_verdict() -> None:
    found = judged(read("proc", SECONDS, 5, temp__cpu=constant(99_000)))
    assert (found["throttled"], found["time_to_throttle_s"], found["witnesses"]) == (None, None, [])
    assert tags(read("proc", SECONDS, 5, temp__cpu=constant(99_000))).mask.all()


def test_a_cooling_device_that_stays_off_is_a_no() -> None:
    found = judged(flag("throttle__thermal__cooling", constant(0)))
    assert found["throttled"] is False
    clean = tags(flag("throttle__thermal__cooling", constant(0)))
    assert not clean.mask.any()
    assert not clean.any()


def test_a_state_that_sets_in_is_a_yes_from_then_on_and_tags_the_frames_of_that_time() -> None:
    block = flag("throttle__thermal__cooling", after(6.0, 0, 1))
    found = judged(block)
    assert found["throttled"] is True
    onset = found["time_to_throttle_s"]
    assert onset["low"] <= 6.0 <= onset["high"]
    assert onset["value"] == pytest.approx(6.0, abs=0.3)
    tagged = tags(block)
    starts = FRAMES["due_ns"] / 1e9
    assert tagged[starts > 6.0].all()
    assert not tagged[starts < 5.5].any()
    assert not tagged.mask.any()


def test_a_state_before_the_frames_is_not_of_them() -> None:
    assert judged(flag("throttle__thermal__cooling", lambda time: int(time < -0.5)))["throttled"] is False


def test_a_state_that_cannot_be_read_is_no_verdict() -> None:
    assert judged(flag("throttle__thermal__cooling", constant(None)))["throttled"] is None


@pytest.mark.parametrize(
    "name", ["throttle__undervoltage__rpi_volt", "throttle__events__oc_inst", "throttle__power__alarm"]
)
def test_a_clean_supply_says_nothing_of_heat(name: str) -> None:
    found = judged(flag(name, constant(0), "hwmon"))
    assert found["throttled"] is None
    assert found["witnesses"][0]["throttled"] is False


def test_a_supply_that_fails_is_a_yes() -> None:
    assert judged(flag("throttle__undervoltage__firmware", after(3.0, 0, 1), "vcio"))["throttled"] is True


def test_a_counter_of_events_counts_what_was_added_and_not_what_was_there() -> None:
    assert judged(flag("throttle__events__package", constant(12)))["throttled"] is False
    (row,) = judged(flag("throttle__events__package", steps((0, 12), (4.0, 15), (5.0, 20))))["witnesses"]
    assert (row["throttled"], row["events"]) == (True, 8)


def test_a_counter_that_starts_anew_has_grown_by_what_it_shows() -> None:
    (row,) = judged(flag("throttle__events__package", steps((0, 900), (4.0, 2))))["witnesses"]
    assert (row["throttled"], row["events"]) == (True, 2)


def test_bursts_of_over_current_are_of_the_two_seconds_before_as_well() -> None:
    tagged = tags(flag("throttle__events__oc_inst", after(6.0, 37, 61), "hwmon"))
    starts = FRAMES["due_ns"] / 1e9
    assert tagged[(starts > 4.1) & (starts < 5.9)].all()
    assert not np.ma.filled(tagged[starts < 3.5], 0).any()


def test_a_latched_bit_proves_something_only_when_it_is_set_in_the_run() -> None:
    name = "throttle__latched__thermal__firmware"
    assert judged(flag(name, constant(1), "vcio"))["throttled"] is None
    assert judged(flag(name, constant(0), "vcio"))["throttled"] is False
    assert judged(flag(name, after(5.0, 0, 1), "vcio"))["throttled"] is True


def test_a_delivered_clock_below_the_requested_one_is_a_yes() -> None:
    asked = read("freq", SECONDS, 10, cpu__clock__policy0=constant(1_800_000_000))
    assert (
        judged(asked, read("vcio", SECONDS, 5, cpu__clock_delivered__arm=constant(1_800_457_088)))["throttled"] is False
    )
    held = read("vcio", SECONDS, 5, cpu__clock_delivered__arm=after(4.0, 1_800_457_088, 600_117_184))
    assert judged(asked, held)["throttled"] is True


def test_a_clock_on_its_way_is_no_throttling() -> None:
    asked = read("freq", SECONDS, 10, cpu__clock__policy0=steps((0, 600_000_000), (3.0, 1_800_000_000)))
    ramping = read("vcio", SECONDS, 5, cpu__clock_delivered__arm=steps((0, 600_000_000), (3.1, 1_800_000_000)))
    assert judged(asked, ramping)["throttled"] is False


def test_a_hot_surface_is_said_and_is_no_verdict() -> None:
    found = judged(
        flag("throttle__advisory__hot_surface", constant(1)), flag("throttle__thermal__cooling", constant(0))
    )
    assert (found["throttled"], found["hot_surface"]) == (False, True)


def test_a_source_that_falls_silent_is_a_gap_and_its_times_are_not_known() -> None:
    silent = read("thermal", SECONDS - 6, 5, throttle__thermal__cooling=constant(0))
    series = telemetry_series([silent])
    gaps = telemetry_gaps(series, WINDOWS)
    assert gaps["thermal"] == pytest.approx(5.0, abs=0.3)
    tagged = tags(silent)
    assert tagged.mask[-100:].all()
    assert not tagged.mask[:400].any()
    assert telemetry_gaps(telemetry_series([flag("throttle__thermal__cooling", constant(0))]), WINDOWS) == {}


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40))),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 40)), min_size=1),
)
def test_overlaps_are_those_that_a_look_at_every_pair_finds(
    rows: list[tuple[int, int]], spans: list[tuple[int, int]]
) -> None:
    intervals = np.array([(start, start + length) for start, length in rows], np.int64).reshape(-1, 2)
    starts, ends = (
        np.array(each, np.int64) for each in zip(*((start, start + length) for start, length in spans), strict=True)
    )
    expected = [any(a <= end and b >= start for a, b in intervals) for start, end in zip(starts, ends, strict=True)]
    together = merged([intervals])
    assert overlaps(together, starts, ends).tolist() == expected
    assert (together[1:, 0] > together[:-1, 1]).all()
