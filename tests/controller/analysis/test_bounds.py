"""What a sample can promise about the distribution behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from backbench.controller.analysis.bounds import (
    early_stopping,
    minimum_count,
    overs_allowed,
    share_interval,
    upper_bound,
)
from backbench.controller.analysis.dependence import effective_count

P99 = Fraction(99, 100)
P99_OF_NORMAL = 2.3263478740408408
TABLE = {
    "0.5": (7, 11, 14, 17, 22, 35, 59),
    "0.9": (44, 64, 81, 97, 127, 197, 325),
    "0.95": (90, 130, 165, 198, 259, 398, 656),
    "0.97": (152, 219, 277, 332, 433, 667, 1097),
    "0.99": (459, 662, 838, 1001, 1307, 2010, 3304),
    "0.995": (919, 1325, 1678, 2006, 2618, 4024, 6615),
    "0.999": (4603, 6636, 8403, 10042, 13105, 20140, 33097),
    "0.9999": (46050, 66381, 84057, 100448, 131081, 201442, 331025),
}
"""Fewest values at 99 % confidence for these numbers of values above; those for one are MLPerf's fewest queries."""
OVERS = (0, 1, 2, 3, 5, 10, 20)

Autoregressive = Callable[[np.random.Generator, int, float], NDArray[np.float64]]

quantiles = st.sampled_from([Fraction(text) for text in TABLE])


@pytest.mark.parametrize("quantile", TABLE)
def test_the_fewest_values_are_the_published_ones(quantile: str) -> None:
    assert tuple(minimum_count(Fraction(quantile), overs=overs) for overs in OVERS) == TABLE[quantile]


@pytest.mark.parametrize(("quantile", "counts"), [("0.9", (29, 46, 61)), ("0.99", (299, 473, 628))])
def test_less_confidence_needs_fewer_values(quantile: str, counts: tuple[int, ...]) -> None:
    assert tuple(minimum_count(Fraction(quantile), 0.95, overs) for overs in range(3)) == counts


@given(quantiles, st.integers(0, 10_000), st.sampled_from([0.9, 0.95, 0.99]))
@example(Fraction(999, 1000), 10_000, 0.99)
def test_the_overs_of_the_fewest_values_are_those_that_were_asked_for(
    quantile: Fraction, overs: int, confidence: float
) -> None:
    count = minimum_count(quantile, confidence, overs)
    assert overs_allowed(count, quantile, confidence) == overs
    assert overs_allowed(count - 1, quantile, confidence) == overs - 1


@given(st.integers(0, 60), st.sampled_from([Fraction(1, 2), Fraction(9, 10), Fraction(97, 100)]))
def test_the_overs_are_those_of_the_exact_binomial_distribution(count: int, quantile: Fraction) -> None:
    over, probability, expected = 1 - quantile, Fraction(0), -1
    for overs in range(count):
        probability += math.comb(count, overs) * over**overs * quantile ** (count - overs)
        expected = overs if probability <= Fraction(1, 100) else expected
    assert overs_allowed(count, quantile) == expected


def test_ten_million_values_are_counted_as_exactly_as_ten() -> None:
    overs = overs_allowed(10**7, P99)
    assert minimum_count(P99, overs=overs) <= 10**7 < minimum_count(P99, overs=overs + 1)


def test_458_values_bound_no_p99_and_459_are_bounded_by_their_maximum() -> None:
    assert upper_bound(np.arange(458), P99, 458) is None
    assert upper_bound(np.arange(459), P99, 459) == 458


@given(st.integers(459, 20_000), st.floats(0.3, 1.0))
def test_fewer_independent_values_never_lower_the_bound_below_the_percentile(count: int, share: float) -> None:
    bound = upper_bound(np.arange(1, count + 1), P99, count * share)
    assert bound is None or math.ceil(count * 0.99) <= bound <= count


def test_mlperf_gives_an_estimate_from_662_queries_on_and_it_is_one_rank_more_cautious() -> None:
    assert early_stopping(np.arange(661), P99) is None
    assert early_stopping(np.arange(662), P99) == 661
    assert upper_bound(np.arange(662), P99, 662) == 660
    assert early_stopping(np.arange(838), P99) == 836


@settings(max_examples=40)
@given(st.integers(0, 500), st.integers(0, 500), st.sampled_from([0.9, 0.95, 0.99]))
@example(0, 100, 0.95)
@example(100, 0, 0.95)
@example(0, 0, 0.95)
def test_the_interval_of_a_share_is_clopper_and_pearsons(count: int, more: int, confidence: float) -> None:
    low, high = share_interval(count, count + more, confidence)
    if count + more == 0:
        assert (low, high) == (0.0, 1.0)
        return
    expected = binomtest(count, count + more).proportion_ci(confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert low <= count / (count + more) <= high


def test_the_bound_of_independent_values_holds_as_often_as_it_promises() -> None:
    samples = np.sort(np.random.default_rng(1).normal(size=(2000, 1000)), axis=1)
    rank = upper_bound(np.arange(1000), P99, 1000)
    assert rank is not None
    assert np.mean(samples[:, rank] >= P99_OF_NORMAL) >= 0.983


@pytest.mark.parametrize(("correlation", "count", "trials"), [(0.0, 1000, 400), (0.9, 6000, 150), (0.99, 60_000, 60)])
def test_the_bound_of_dependent_values_holds_or_is_not_given(
    correlation: float, count: int, trials: int, autoregressive: Autoregressive
) -> None:
    random = np.random.default_rng(7)
    holds = []
    for _ in range(trials):
        values = autoregressive(random, count, correlation)
        ascending = np.sort((values * 1e6).astype(np.int64))
        bound = upper_bound(ascending, P99, effective_count(values))
        if bound is not None:
            holds.append(bound >= P99_OF_NORMAL * 1e6)
    assert len(holds) > trials / 5  # it is not right by never answering
    assert np.mean(holds) >= 0.97
