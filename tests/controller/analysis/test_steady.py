"""When a launch was steady, and what it was otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backbench.controller.analysis.steady import Steadiness, steadiness

Autoregressive = Callable[[np.random.Generator, int, float], NDArray[np.float64]]

LEVEL_NS = 10e6


def times(relative: NDArray[np.floating[Any]], cv: float = 0.01, seed: int = 0) -> NDArray[np.int64]:
    """Service times of these levels, relative to 10 ms, with normal noise around them."""
    noise = np.random.default_rng(seed).normal(size=len(relative))
    return (LEVEL_NS * (relative + cv * noise)).astype(np.int64)


def with_spikes(service_ns: NDArray[np.int64], count: int, seed: int = 0) -> NDArray[np.int64]:
    at = np.random.default_rng(seed).choice(len(service_ns), count, replace=False)
    spiked = service_ns.copy()
    spiked[at] += 8_000_000
    return spiked


def share_flat(series: list[NDArray[np.int64]]) -> float:
    return float(np.mean([steadiness(each).kind == "flat" for each in series]))


@pytest.mark.parametrize("seed", range(8))
def test_a_transient_is_cut_and_spikes_after_it_are_not(seed: int) -> None:
    decay = 1 + 0.2 * np.exp(-np.arange(3000) / 150)
    found = steadiness(with_spikes(times(decay, seed=seed), 15, seed))
    assert found.kind == "warm-up"
    assert 400 <= found.start <= 900


@pytest.mark.parametrize("seed", range(8))
def test_spikes_alone_are_no_transient(seed: int) -> None:
    found = steadiness(with_spikes(times(np.ones(3000), seed=seed), 15, seed))
    assert (found.kind, found.start) == ("flat", 0)
    assert len(found.segments) == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step", [0.04, -0.04])
@pytest.mark.parametrize("count", [300, 3000])
def test_a_step_at_half_time_is_told_and_nothing_is_cut(count: int, step: float, seed: int) -> None:
    found = steadiness(times(1 + step * (np.arange(count) >= count // 2), seed=seed))
    assert found.kind == ("slowdown" if step > 0 else "no-steady-state")
    assert found.start == 0
    assert found.half_shift == pytest.approx(step, abs=0.01)


@pytest.mark.parametrize("at", [0.2, 0.75])
def test_a_step_elsewhere_is_found_where_it_is(at: float) -> None:
    found = steadiness(times(1 + 0.04 * (np.arange(4000) >= at * 4000)))
    assert (found.kind, found.start) == ("slowdown", 0)
    assert [first for first, _ in found.segments] == [0, pytest.approx(at * 4000, abs=100)]
    assert [level / LEVEL_NS for _, level in found.segments] == pytest.approx([1.0, 1.04], abs=0.005)


def test_a_slow_rise_is_a_slowdown_and_a_slow_fall_is_no_steady_state() -> None:
    rise = np.linspace(1, 1.08, 3000)
    assert steadiness(times(rise)).kind == "slowdown"
    assert steadiness(times(rise)).drift == pytest.approx(0.08, rel=0.1)
    assert steadiness(times(rise[::-1].copy())).kind == "no-steady-state"


def test_a_slower_stretch_in_the_middle_is_no_steady_state() -> None:
    index = np.arange(3000)
    found = steadiness(times(1 + 0.05 * ((index > 1000) & (index < 1600))))
    assert (found.kind, found.start) == ("no-steady-state", 0)
    assert len(found.segments) == 3


def test_a_warm_up_before_a_slowdown_is_not_cut_away() -> None:
    index = np.arange(3000)
    found = steadiness(times(1 + 0.3 * (index < 200) + 0.05 * (index >= 2000)))
    assert (found.kind, found.start) == ("slowdown", 0)
    assert found.segments[0][0] == 0


def test_a_difference_within_the_margin_is_none() -> None:
    assert steadiness(times(1 + 0.005 * (np.arange(3000) >= 1500), cv=0.001)).kind == "flat"


@pytest.mark.parametrize("count", [200, 1000, 3000])
@pytest.mark.parametrize("cv", [0.01, 0.05])
def test_noise_is_flat(count: int, cv: float) -> None:
    assert share_flat([times(np.ones(count), cv, seed) for seed in range(40)]) >= 0.95


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_correlated_noise_is_flat(correlation: float, autoregressive: Autoregressive) -> None:
    random = np.random.default_rng(2)
    noise = [autoregressive(random, 3000, correlation) for _ in range(30)]
    assert share_flat([(LEVEL_NS * (1 + 0.02 * each)).astype(np.int64) for each in noise]) >= 0.9


def test_times_that_are_all_the_same_are_flat() -> None:
    assert steadiness(np.full(500, 5_000_000)) == Steadiness(0, "flat", 0.0, 0.0, ((0, 5_000_000.0),))
    assert steadiness(np.zeros(500, np.int64)).kind == "flat"


def test_fewer_than_a_hundred_frames_are_too_short() -> None:
    assert steadiness(np.full(99, 5_000_000)) == Steadiness(0, "too-short", None, None, ())
    assert steadiness(np.full(100, 5_000_000)).kind == "flat"


def test_two_million_frames_are_judged_by_four_hundred_blocks() -> None:
    service_ns = times(1 + 0.04 * (np.arange(2_000_000) >= 1_000_000))
    found = steadiness(service_ns)
    assert (found.kind, [first for first, _ in found.segments]) == ("slowdown", [0, 1_000_000])
