"""Percentiles by nearest rank, and the number of samples that each one needs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.bounds import minimum_count

QUANTILES: dict[str, Fraction] = {
    "p50": Fraction(50, 100),
    "p90": Fraction(90, 100),
    "p95": Fraction(95, 100),
    "p99": Fraction(99, 100),
    "p99.9": Fraction(999, 1000),
}
"""The percentiles that are reported, as exact fractions, so that no rank suffers from rounding."""

RULE = "nearest rank: the value at rank ceil(n*q), counted from 1"


def nearest_rank(ascending: NDArray[np.int64], quantile: Fraction) -> int:
    """The value at rank ceil(n*q) of at least one ascending value."""
    rank = -(-len(ascending) * quantile.numerator // quantile.denominator)
    return int(ascending[max(rank, 1) - 1])


def enough(effective_count: float, quantile: Fraction) -> bool:
    """Whether so many independent values, rounded down, can carry the quantile: it has an upper bound then."""
    return int(effective_count) >= minimum_count(quantile)


def insufficient(count: int, effective_count: float | None = None) -> dict[str, int]:
    """The percentiles that `count` frames cannot carry, with the number of frames that would do.

    Where the frames are worth fewer independent ones (`effective_count`; None: all of them), the need grows by
    `count / effective_count`: more frames of the same kind are worth as little each.
    """
    effective = float(count) if effective_count is None else effective_count
    scale = count / effective if effective > 0 else 1.0
    return {
        name: math.ceil(minimum_count(quantile) * scale)
        for name, quantile in QUANTILES.items()
        if not enough(effective, quantile)
    }
