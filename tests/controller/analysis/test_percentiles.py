"""Percentiles by nearest rank, and only where there are enough samples."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.controller.analysis.percentiles import QUANTILES, insufficient, minimum_count, nearest_rank

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


@pytest.mark.parametrize(("quantile", "count"), [("0.5", 7), ("0.9", 44), ("0.95", 90), ("0.99", 459), ("0.999", 4603)])
def test_the_fewest_samples_are_those_of_the_order_statistic_bound(quantile: str, count: int) -> None:
    assert minimum_count(Fraction(quantile)) == count


def test_458_frames_carry_no_p99_and_459_do() -> None:
    assert insufficient(458) == {"p99": 459}
    assert insufficient(459) == {}
