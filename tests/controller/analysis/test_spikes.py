"""Spikes and what speaks for a cause of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.controller.boards import after, columns, constant, frames, read, steps

from backbench.controller.analysis.clocks import clocks_document
from backbench.controller.analysis.spikes import LISTED, spikes_document
from backbench.controller.analysis.telemetry import telemetry_series, timed_windows
from backbench.controller.analysis.throttle import judge_throttling
from backbench.domain.frame import FrameTag
from backbench.domain.telemetry import TelemetryBlock

SECONDS = 10.0


def spike_at(moment_s: float, length_ms: float = 9.0) -> Callable[[float], float]:
    return lambda time: length_ms if abs(time - moment_s) < 0.004 else 5.0


def found(block: Any, *telemetry: TelemetryBlock) -> dict[str, Any]:
    made, series = columns(block), telemetry_series(telemetry)
    windows = timed_windows(made)
    throttling = judge_throttling(series, windows)
    clocks = clocks_document(series, windows, throttling.live())
    document = spikes_document(made, series, throttling, clocks["policy_changes"] if clocks else ())
    assert document is not None
    return document


def only(block: Any, *telemetry: TelemetryBlock) -> dict[str, Any]:
    document = found(block, *telemetry)
    assert document["count"] == 1
    row: dict[str, Any] = document["rows"][0]
    assert document["grades"][row["grade"]] == 1
    return row


def causes(row: dict[str, Any]) -> dict[str, str]:
    return {each["cause"]: each["grade"] for each in row["causes"]}


ONE = frames(SECONDS, service_ms=spike_at(3.1))
QUIET = read("thermal", SECONDS, 5, throttle__thermal__cooling=constant(0))


def test_even_frames_have_no_spikes_and_few_frames_no_judgement() -> None:
    assert found(frames(SECONDS), QUIET)["count"] == 0
    made = columns(frames(0.3))
    series = telemetry_series([])
    assert spikes_document(made, series, judge_throttling(series, timed_windows(made)), ()) is None


def test_a_step_is_no_spike() -> None:
    assert found(frames(SECONDS, service_ms=lambda time: 5.0 if time < 5 else 8.0), QUIET)["count"] < 60


def test_a_spike_is_told_with_its_time_and_what_is_usual() -> None:
    row = only(ONE)
    assert (row["index"], row["at_s"]) == (310, 3.1)
    assert row["service_ms"] == pytest.approx(9.0, abs=0.01)
    assert row["usual_ms"] == pytest.approx(5.0, abs=0.01)


def test_a_spike_that_nothing_looked_at_is_unexplained() -> None:
    assert only(ONE)["grade"] == "unexplained"


def test_a_clean_witness_excludes_throttling() -> None:
    assert only(ONE, QUIET)["grade"] == "excluded"


def test_a_burst_of_over_current_events_with_steady_clocks_is_consistent() -> None:
    """As on an Orin Nano: the counter jumps in bursts of two seconds, and no clock that can be read shows it."""
    hwmon = read("hwmon", SECONDS, 20, throttle__events__oc_inst=steps((0, 37), (2.0, 61), (4.0, 88)))
    freq = read(
        "freq",
        SECONDS,
        20,
        cpu__clock__policy0=constant(1_728_000_000),
        cpu__clock_max__policy0=constant(1_728_000_000),
    )
    row = only(ONE, hwmon, freq, QUIET)
    assert row["grade"] == "consistent"
    assert row["witness"] == "throttle.events.oc_inst +27"


def test_an_alert_and_a_capped_clock_together_are_confirmed() -> None:
    alert = read("thermal", SECONDS, 5, throttle__thermal__cooling=after(3.0, 0, 1))
    capped = read("freq", SECONDS, 10, cpu__clock_max__policy0=after(3.0, 1_728_000_000, 1_113_600_000))
    assert only(ONE, alert, capped)["grade"] == "confirmed"


def test_a_state_on_both_sides_is_confirmed_and_one_that_sets_in_alone_consistent() -> None:
    assert only(ONE, read("thermal", SECONDS, 5, throttle__thermal__cooling=after(2.0, 0, 1)))["grade"] == "confirmed"
    assert only(ONE, read("thermal", SECONDS, 5, throttle__thermal__cooling=after(3.15, 0, 1)))["grade"] == "consistent"


def test_other_causes_have_their_own_grades() -> None:
    proc = read(
        "proc", SECONDS, 10,
        proc__majflt=after(3.05, 0, 40), cgroup__throttled=constant(903_120),
        proc__ctx_invol=lambda time: round(100 + 10 * time),
    )  # fmt: skip
    row = causes(only(ONE, QUIET, proc))
    assert row["memory"] == "consistent"
    assert row["processor quota"] == "excluded"
    assert row["other processes"] == "excluded"
    assert "changed limits" not in row


def test_what_the_worker_saw_in_the_frame_itself_is_confirmed() -> None:
    tags = [0] * len(ONE.index)
    tags[310] = FrameTag.MAJOR_FAULT | FrameTag.GARBAGE_COLLECTION
    row = causes(only(replace(ONE, tags=tuple(tags)), QUIET))
    assert (row["memory"], row["garbage collection"]) == ("confirmed", "confirmed")


def test_a_clock_that_was_low_before_and_rose_is_the_governor() -> None:
    freq = read(
        "freq", SECONDS, 20,
        cpu__clock__policy0=lambda time: 600_000_000 if 2.5 < time < 3.1 else 1_800_000_000,
        cpu__clock_max__policy0=constant(1_800_000_000),
    )  # fmt: skip
    assert causes(only(ONE, QUIET, freq))["governor"] == "consistent"


def test_a_mode_that_somebody_changed_is_named() -> None:
    freq = read("freq", SECONDS, 10, mode__power=after(3.1, 0, 1))
    assert causes(only(ONE, QUIET, freq))["changed limits"] == "consistent"


def test_a_long_read_by_the_agent_itself_is_a_cause_and_a_short_one_is_not() -> None:
    long, short = (read("jtop", SECONDS, 10, read_ns, temp__x=constant(1)) for read_ns in (5_000_000, 20_000))
    assert causes(only(ONE, QUIET, long))["a sensor's read"] == "consistent"
    assert causes(only(ONE, short))["a sensor's read"] == "excluded"


def test_many_spikes_are_counted_and_the_longest_listed() -> None:
    block = frames(60.0, service_ms=lambda time: 7.0 + time % 10 if round(time * 100) % 60 == 30 else 5.0)
    document = found(block, read("thermal", 60.0, 5, throttle__thermal__cooling=constant(0)))
    assert document["count"] == 100
    assert len(document["rows"]) == LISTED
    assert min(row["service_ms"] for row in document["rows"]) > 14
    times = [row["at_s"] for row in document["rows"]]
    assert times == sorted(times)
    assert sum(document["grades"].values()) == 100


def test_a_long_run_is_looked_at_as_a_short_one_is() -> None:
    block = frames(400.0, service_ms=spike_at(333.3))
    assert len(np.unique(block.index)) == 40_000
    assert only(block)["at_s"] == pytest.approx(333.3)
