"""Percentiles by nearest rank, and the number of samples that each one needs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

QUANTILES: dict[str, Fraction] = {
    "p50": Fraction(50, 100),
    "p90": Fraction(90, 100),
    "p95": Fraction(95, 100),
    "p99": Fraction(99, 100),
}
"""The percentiles that are reported, as exact fractions, so that no rank suffers from rounding."""

CONFIDENCE = 0.99
RULE = "nearest rank: the value at rank ceil(n*q), counted from 1"


def minimum_count(quantile: Fraction, confidence: float = CONFIDENCE) -> int:
    """The fewest samples whose maximum lies above the quantile with this confidence: n >= ln(1 - c) / ln(q).

    It is the order-statistic bound for independent samples with t = 0; 459 for p99 at 99 %.
    """
    return math.ceil(math.log1p(-confidence) / math.log(quantile))


def nearest_rank(ascending: NDArray[np.int64], quantile: Fraction) -> int:
    """The value at rank ceil(n*q) of at least one ascending value."""
    rank = -(-len(ascending) * quantile.numerator // quantile.denominator)
    return int(ascending[max(rank, 1) - 1])


def insufficient(count: int) -> dict[str, int]:
    """The percentiles that so few samples cannot carry, with the number that would do."""
    return {name: need for name, quantile in QUANTILES.items() if count < (need := minimum_count(quantile))}
