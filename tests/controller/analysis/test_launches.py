"""How far the launches of a run agree."""

from __future__ import annotations

import numpy as np
import pytest

from backbench.controller.analysis.launches import launch_spread


def launch(level_ms: float, count: int = 600, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    noise = np.random.default_rng(seed).normal(scale=0.02, size=count)
    return (level_ms * 1e6 * (1 + noise)).astype(np.int64)


def test_the_spread_between_launches_is_told_apart_from_that_within() -> None:
    told = launch_spread([launch(level, seed=seed) for seed, level in enumerate((10.0, 10.5, 11.0))])
    assert told is not None
    assert told["count"] == 3
    assert told["between_cv"] == pytest.approx(0.5 / 10.5, rel=0.1)
    assert told["within_cv"] == pytest.approx(0.02, rel=0.1)
    assert told["spread"] == pytest.approx(0.1, rel=0.1)
    assert told["p50_interval_ms"] == pytest.approx([10.0, 11.0], rel=0.01)
    assert [row["n"] for row in told["launches"]] == [600, 600, 600]


@pytest.mark.parametrize(("count", "coverage"), [(2, 0.5), (5, 0.9375), (6, 0.96875), (8, 0.9921875)])
def test_more_launches_cover_the_median_launch_more_surely(count: int, coverage: float) -> None:
    told = launch_spread([launch(10.0, seed=seed) for seed in range(count)])
    assert told is not None
    assert told["p50_interval_coverage"] == coverage


def test_one_launch_says_nothing_of_others() -> None:
    told = launch_spread([launch(10.0), np.zeros(0, np.int64)])
    assert told is not None
    assert told["count"] == 1
    assert [told[name] for name in ("between_cv", "p50_interval_ms", "p50_interval_coverage", "spread")] == [None] * 4
    assert told["within_cv"] is not None


def test_a_launch_of_too_few_frames_has_no_p99() -> None:
    told = launch_spread([launch(10.0, 100), np.full(459, 10_000_000)])
    assert told is not None
    assert [row["p99_ms"] for row in told["launches"]] == [None, 10.0]


def test_no_frames_have_no_spread() -> None:
    assert launch_spread([]) is None
    told = launch_spread([np.array([5_000_000])])
    assert told is not None
    assert told["within_cv"] is None
