"""How many independent values a sequence is worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backbench.controller.analysis.dependence import effective_count

Autoregressive = Callable[[np.random.Generator, int, float], NDArray[np.float64]]


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=300))
def test_it_is_at_least_one_and_never_more_than_there_are(values: list[int]) -> None:
    assert 1 <= effective_count(np.array(values, np.int64)) <= len(values)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 1000])
def test_values_that_are_all_equal_count_in_full(count: int) -> None:
    assert effective_count(np.full(count, 7)) == count


@pytest.mark.parametrize(("correlation", "low", "high"), [(0.0, 0.8, 1.0), (0.9, 0.03, 0.12), (0.99, 0.002, 0.015)])
def test_correlated_values_are_worth_fewer(
    correlation: float, low: float, high: float, autoregressive: Autoregressive
) -> None:
    random = np.random.default_rng(3)
    shares = [effective_count(autoregressive(random, 20_000, correlation)) / 20_000 for _ in range(5)]
    assert low <= np.median(shares) <= high


def test_a_slow_rise_is_worth_a_handful() -> None:
    assert effective_count(np.arange(10_000)) < 20


def test_alternating_values_are_worth_no_more_than_their_number() -> None:
    assert effective_count(np.arange(1000) % 2) == 1000


def test_what_is_added_to_all_values_changes_nothing() -> None:
    values = np.random.default_rng(5).integers(0, 1000, 500)
    assert effective_count(values) == effective_count(values + 2**60)
