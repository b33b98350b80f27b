"""Energy of made-up power and counters, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.controller.boards import columns, constant, frames, read

from backbench.controller.analysis.energy import Energy, energy_of
from backbench.controller.analysis.telemetry import telemetry_series, timed_windows
from backbench.domain.device import SensorChannel
from backbench.domain.telemetry import TelemetryBlock

SECONDS = 10.0
WINDOWS = timed_windows(columns(frames(SECONDS)))
LENGTH_S = (WINDOWS[0][1] - WINDOWS[0][0]) / 1e9
TOTAL = SensorChannel("power.total", "mW", "hwmon", scope="module_input", method="measured", window_ns=430_000_000)


def measured(*blocks: TelemetryBlock, channels: tuple[SensorChannel, ...] = ()) -> Energy:
    found = energy_of(telemetry_series(blocks, channels), WINDOWS)
    assert isinstance(found, Energy), found
    return found


def power(value: Callable[[float], int | None], rate_hz: float = 20) -> TelemetryBlock:
    return read("hwmon", SECONDS, rate_hz, power__total=value)


def test_five_watts_at_a_hundred_frames_a_second_are_a_twentieth_of_a_joule_each() -> None:
    per_frame = measured(power(constant(5000)), channels=(TOTAL,)).per_frame(1000)
    assert per_frame is not None
    assert per_frame["value"] == pytest.approx(0.05, rel=1e-3)
    assert per_frame["low"] <= per_frame["value"] <= per_frame["high"]
    assert per_frame["high"] - per_frame["low"] < 1e-4
    assert (per_frame["scope"], per_frame["method"], per_frame["window_s"]) == ("module_input", "measured", 0.43)
    assert per_frame["idle_subtracted"] is False


@pytest.mark.parametrize("rate_hz", [1, 7, 50])
def test_the_interval_holds_the_truth_of_power_that_rises(rate_hz: float) -> None:
    found = measured(power(lambda time: round(4000 + 400 * time), rate_hz))
    truth = 4.0 * LENGTH_S + 0.2 * LENGTH_S**2
    assert found.low <= truth <= found.high
    assert found.joules == pytest.approx(truth, rel=2e-3)


def test_a_meter_that_averages_over_the_past_widens_the_interval() -> None:
    step = power(lambda time: 9000 if time > 5 else 3000)
    narrow, wide = measured(step), measured(step, channels=(TOTAL,))
    assert wide.high - wide.low > narrow.high - narrow.low + 2 * 0.43 * 6 * 0.9


def test_power_has_its_mean_and_its_highest() -> None:
    found = measured(power(lambda time: 9000 if 5 < time < 6 else 3000)).power()
    assert found["mean"] == pytest.approx(3.6, abs=0.1)
    assert found["max"] == 9.0


def test_without_a_sensor_there_is_none_and_no_zero() -> None:
    said = energy_of(telemetry_series([read("proc", SECONDS, 5, temp__cpu=constant(50_000))]), WINDOWS)
    assert said == "nothing that measures power was read"
    assert "not" in str(energy_of(telemetry_series([power(constant(None))]), WINDOWS))
    assert energy_of(telemetry_series([power(constant(5000))]), []) == "no frame was timed"


def test_power_that_was_not_read_for_long_is_none() -> None:
    early = read("hwmon", 2.0, 20, power__total=constant(5000))
    said = energy_of(telemetry_series([early]), WINDOWS)
    assert isinstance(said, str)
    assert said.startswith("power was not read for 7.0")


def test_frames_that_gave_no_output_have_no_energy_each() -> None:
    assert measured(power(constant(5000))).per_frame(0) is None


def counter(value: Callable[[float], int], name: str = "energy__package-0", rate_hz: float = 10) -> TelemetryBlock:
    channels: dict[str, Any] = {name: value}
    return read("powercap", SECONDS, rate_hz, **channels)


def test_a_counter_is_used_where_there_is_no_power() -> None:
    found = measured(counter(lambda time: round(1e9 + 7e6 * time)))
    assert found.joules == pytest.approx(7 * LENGTH_S, rel=1e-6)
    assert found.low <= 7 * LENGTH_S <= found.high
    assert (found.scope, found.method, found.power()["max"]) == ("package", "measured", None)
    both = measured(counter(lambda time: round(1e9 + 7e6 * time)), power(constant(5000)))
    assert both.channels == ("power.total",)


REACH = 262_143_328_850
STATED = SensorChannel("energy.package-0", "uJ", "powercap", scope=f"package, wraps at {REACH} uJ", kind="counter")


@given(st.integers(0, 900), st.integers(20, 60), st.booleans())
def test_a_counter_that_wraps_is_undone(before_wrap_mj: int, watts: int, stated: bool) -> None:
    start = REACH - before_wrap_mj * 1e3 - watts * 1e6 * 3
    wrapping = counter(lambda time: round(start + watts * 1e6 * time) % REACH)
    found = measured(wrapping, channels=(STATED,) if stated else ())
    assert found.low <= watts * LENGTH_S <= found.high
    assert found.joules == pytest.approx(watts * LENGTH_S, rel=1e-6 if stated else 0.02)
    assert found.scope == "package"


def test_a_counter_that_began_anew_does_not_count_a_whole_round() -> None:
    found = measured(counter(lambda time: round(7e6 * (time if time > 5 else time + 100))), channels=(STATED,))
    assert found.joules == pytest.approx(7 * LENGTH_S, rel=0.02)


def test_packages_and_cards_are_summed_and_parts_of_a_package_are_not() -> None:
    rates: dict[str, int] = {
        "energy__package-0": 10,
        "energy__package-1": 20,
        "energy__package-0.core": 5,
        "energy__gpu": 100,
    }
    blocks = [counter(lambda time, watts=watts: round(1e9 + watts * 1e6 * time), name) for name, watts in rates.items()]  # type: ignore[misc]
    found = measured(*blocks)
    assert found.joules == pytest.approx(130 * LENGTH_S, rel=1e-6)
    assert found.scope == "gpu+package"


def test_a_counter_that_was_not_read_around_the_frames_is_none() -> None:
    late: dict[str, Any] = {"energy__package-0": lambda time: round(7e6 * time)}
    said = energy_of(telemetry_series([read("powercap", SECONDS, 10, start_s=1.0, **late)]), WINDOWS)
    assert said == "the counter of energy was not read on both sides of the timed frames"
