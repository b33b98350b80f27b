"""How one set of launches compares with another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from backbench.controller.analysis.effect import ratio_interval, verdict

Launches = list[NDArray[np.int64]]


def side(
    random: np.random.Generator, level_ms: float, launches: int = 6, count: int = 1000, between: float = 0.002
) -> Launches:
    levels = level_ms * 1e6 * (1 + between * random.normal(size=launches))
    return [(level * (1 + 0.02 * random.normal(size=count))).astype(np.int64) for level in levels]


def compared(a: Launches, b: Launches, resamples: int = 2000) -> str:
    _, low, high = ratio_interval(a, b, resamples=resamples)
    return verdict(low, high)


@pytest.mark.parametrize(("level", "expected"), [(9.0, "faster"), (10.0, "equivalent"), (11.0, "slower")])
def test_a_clear_difference_has_a_clear_verdict(level: float, expected: str) -> None:
    random = np.random.default_rng(0)
    a, b = side(random, 10.0), side(random, level)
    ratio, low, high = ratio_interval(a, b)
    assert low is not None and high is not None
    assert low <= ratio <= high
    assert low < level / 10.0 < high
    assert verdict(low, high) == expected


def test_equal_seeds_give_equal_intervals() -> None:
    random = np.random.default_rng(0)
    a, b = side(random, 10.0, 3, 200), side(random, 10.2, 3, 200)
    assert ratio_interval(a, b, seed=4) == ratio_interval(a, b, seed=4)
    assert ratio_interval(a, b, seed=4) != ratio_interval(a, b, seed=5)


@pytest.mark.parametrize("launches", [2, 5])
def test_the_interval_covers_the_true_ratio_however_few_launches_there_are(launches: int) -> None:
    covered = []
    for seed in range(80):
        random = np.random.default_rng(seed)
        a, b = side(random, 10.0, launches, 60, 0.03), side(random, 10.0, launches, 60, 0.03)
        _, low, high = ratio_interval(a, b, resamples=300)
        assert low is not None and high is not None
        covered.append(low <= 1 <= high)
    assert np.mean(covered) >= 0.9


def test_launches_that_differ_widely_conclude_nothing() -> None:
    random = np.random.default_rng(1)
    assert compared(side(random, 10.0, 3, between=0.05), side(random, 10.2, 3, between=0.05)) == "inconclusive"


def test_one_launch_a_side_concludes_nothing_however_large_the_difference() -> None:
    random = np.random.default_rng(2)
    ratio, low, high = ratio_interval(side(random, 10.0, 1), side(random, 20.0, 6))
    assert ratio == pytest.approx(2, rel=0.05)
    assert (low, high) == (None, None)
    assert verdict(low, high) == "inconclusive"


def test_long_launches_are_compared_as_well() -> None:
    random = np.random.default_rng(3)
    assert compared(side(random, 10.0, 3, 60_000), side(random, 12.0, 3, 60_000)) == "slower"


def test_a_side_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one launch with frames"):
        ratio_interval([], [np.array([1])])


@pytest.mark.parametrize(
    ("low", "high", "noise_floor", "expected"),
    [
        (0.95, 0.985, 0.0, "faster"),
        (0.95, 0.985, 0.03, "inconclusive"),
        (0.98, 0.985, -0.03, "equivalent"),
        (0.991, 1.009, 0.0, "equivalent"),
        (0.98, 1.005, 0.0, "inconclusive"),
        (1.02, 1.05, 0.01, "slower"),
        (1.009, 1.05, 0.0, "inconclusive"),
    ],
)
def test_a_difference_within_the_noise_floor_is_none(
    low: float, high: float, noise_floor: float, expected: str
) -> None:
    assert verdict(low, high, noise_floor) == expected
