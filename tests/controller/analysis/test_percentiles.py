"""Percentiles by nearest rank, and only where there are enough samples."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backbench.controller.analysis.percentiles import QUANTILES, enough, insufficient, nearest_rank

values = st.lists(st.integers(0, 2**62), min_size=1, max_size=400)


@given(values, st.sampled_from(sorted(QUANTILES)))
def test_the_nearest_rank_is_numpys_inverted_cdf(samples: list[int], name: str) -> None:
    ascending = np.sort(np.array(samples, np.int64))
    quantile = QUANTILES[name]
    rank = -(-len(samples) * quantile.numerator // quantile.denominator)
    assert nearest_rank(ascending, quantile) == sorted(samples)[rank - 1]
    small = ascending % 1_000_003
    small.sort()
    assert nearest_rank(small, quantile) == np.quantile(small, float(quantile), method="inverted_cdf")


def test_the_p99_of_a_hundred_is_the_99th_value() -> None:
    assert nearest_rank(np.arange(1, 101), Fraction(99, 100)) == 99


def test_458_frames_carry_no_p99_and_459_do() -> None:
    assert insufficient(458) == {"p99": 459, "p99.9": 4603}
    assert insufficient(459) == {"p99.9": 4603}
    assert insufficient(4603) == {}


def test_frames_that_are_worth_half_as_much_are_needed_twice() -> None:
    assert insufficient(800, 400.0) == {"p99": 918, "p99.9": 9206}
    assert insufficient(1000, 1000.0) == insufficient(1000)


def test_no_frames_at_all_carry_nothing() -> None:
    assert insufficient(0, 0.0) == {"p50": 7, "p90": 44, "p95": 90, "p99": 459, "p99.9": 4603}


@given(st.integers(1, 10_000), st.floats(0.001, 1))
def test_the_frames_that_are_needed_are_more_than_there_are_and_would_be_enough(count: int, share: float) -> None:
    for name, need in insufficient(count, count * share).items():
        assert need > count
        assert enough(need * share + 1e-6, QUANTILES[name])
