"""How a long run changes."""

from __future__ import annotations

import numpy as np
import pytest

from backbench.controller.analysis.drift import latency_drift, memory_growth, minute_curve, slope

BASE = 2**60
SECOND_NS = 10**9


def test_every_minute_has_a_row_and_the_last_one_counts_what_was_measured() -> None:
    done = BASE + np.arange(1, 1501) * 100_000_000  # ten a second for two and a half minutes
    rows = minute_curve(done, np.full(1500, 100_000_000), np.array([BASE + 70 * SECOND_NS]))
    assert [row["minute"] for row in rows] == [0, 1, 2]
    assert [row["n"] for row in rows] == [599, 600, 301]
    assert [row["dropped"] for row in rows] == [0, 1, 0]
    assert [row["fps"] for row in rows] == pytest.approx([10, 10, 10], rel=0.01)
    assert [row["p50_ms"] for row in rows] == [100.0] * 3
    assert [row["p99_ms"] for row in rows] == [100.0, 100.0, None]  # 301 frames cannot carry it


def test_a_minute_without_a_result_is_a_minute_at_zero_frames_a_second() -> None:
    rows = minute_curve(BASE + np.array([1, 130]) * SECOND_NS, np.full(2, SECOND_NS // 10))
    assert [row["fps"] for row in rows] == [1 / 60, 0.0, pytest.approx(1 / 9.1)]
    assert rows[1] == {"minute": 1, "n": 0, "dropped": None, "p50_ms": None, "p99_ms": None, "fps": 0.0}


def test_drops_after_the_last_result_are_counted_as_well() -> None:
    rows = minute_curve(BASE + np.array([SECOND_NS]), np.array([1]), BASE + np.array([2, 100, 101]) * SECOND_NS)
    assert [(row["n"], row["dropped"]) for row in rows] == [(1, 1), (0, 2)]


def test_no_frames_have_no_minutes() -> None:
    assert minute_curve(np.zeros(0, np.int64), np.zeros(0, np.int64)) == []


def test_a_slope_is_found_through_noise_and_outliers() -> None:
    random = np.random.default_rng(0)
    times = np.arange(20_000) / 10
    values = 5 + 0.002 * times + random.normal(scale=0.5, size=20_000) + 100 * (random.random(20_000) < 0.01)
    found = slope(times, values)
    assert found is not None
    assert found["low"] < 7.2 < found["high"]
    assert found["per_hour"] == pytest.approx(7.2, rel=0.05)


def test_a_few_points_have_no_slope() -> None:
    assert slope(np.arange(9.0), np.arange(9.0)) is None
    assert latency_drift(np.zeros(0, np.int64), np.zeros(0, np.int64)) is None
    assert memory_growth(np.arange(3), np.arange(3)) is None


def test_latency_that_rises_by_a_tenth_in_half_an_hour_drifts_by_a_fifth_an_hour() -> None:
    done = BASE + np.arange(18_000) * 100_000_000
    service = (np.linspace(0.95, 1.05, 18_000) * 50e6).astype(np.int64)
    assert latency_drift(done, service) == pytest.approx({"per_hour": 0.2, "low": 0.2, "high": 0.2}, rel=0.01)


def test_times_of_a_run_of_ten_hours_keep_their_nanoseconds() -> None:
    done = BASE + np.arange(0, 36_000 * SECOND_NS, 36 * SECOND_NS)
    service = 1_000_000 + np.arange(1000)
    found = latency_drift(done, service)
    assert found is not None
    assert found["per_hour"] == pytest.approx(100 / 1_000_499.5, rel=1e-9)


def test_a_leak_is_told_an_hour_and_a_thousand_frames() -> None:
    times = BASE + np.arange(600) * SECOND_NS
    resident = 200_000_000 + np.arange(600) * 1000
    found = memory_growth(times, resident, fps=10.0)
    assert found is not None
    assert found["bytes_per_hour"]["value"] == pytest.approx(3_600_000)
    assert found["kb_per_1000_frames"]["value"] == pytest.approx(100)
    without = memory_growth(times, resident)
    assert without is not None
    assert without["kb_per_1000_frames"] is None


def test_memory_that_stays_does_not_grow() -> None:
    found = memory_growth(np.arange(600) * SECOND_NS, np.full(600, 200_000_000), fps=30.0)
    assert found is not None
    assert found["bytes_per_hour"] == {"value": 0.0, "low": 0.0, "high": 0.0}
