"""What a sample can promise about the distribution behind it: bounds on quantiles and on shares.

All bounds are free of any assumed distribution. With `N` values above the quantile `q_p`, `N ~ Binomial(n, 1 - p)` for
independent values, so the (n - t)-th smallest bounds `q_p` from above with confidence `c` while `P(N <= t) <= 1 - c`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99


def overs_allowed(count: int, quantile: Fraction, confidence: float = CONFIDENCE) -> int:
    """The largest t for which the (t + 1)-th largest of `count` independent values bounds the quantile from above.

    -1 where even the largest value does not, with this confidence. The inverse of `minimum_count` in `overs`.
    """
    # -1 is allowed, `count` is not: all of the values lie above with probability 1 at most.
    return _last(lambda overs: _at_most(overs, count, quantile) <= 1 - confidence, -1, count)


def minimum_count(quantile: Fraction, confidence: float = CONFIDENCE, overs: int = 0) -> int:
    """The fewest independent values of which the (overs + 1)-th largest bounds the quantile from above.

    For `overs` = 0 this is n >= ln(1 - c) / ln(p): 459 for p99 at 99 %. For `overs` = 1 it is the fewest queries with
    which MLPerf gives an estimate: 662 for p99.
    """

    def too_few(count: int) -> bool:
        return _at_most(overs, count, quantile) > 1 - confidence

    high = overs + 1
    while too_few(high):
        high *= 2
    return _last(too_few, overs, high) + 1


def upper_bound(
    ascending: NDArray[np.int64], quantile: Fraction, effective_count: float, confidence: float = CONFIDENCE
) -> int | None:
    """The value that the quantile does not exceed, with this confidence; None where there are too few values.

    `effective_count` is how many independent values the `ascending` ones are worth. The bound is taken where as many
    independent values would have it: t of them may lie above, so here the same share of all values may.
    """
    overs = overs_allowed(int(effective_count), quantile, confidence)
    if overs < 0:
        return None
    above = max(1, int((overs + 1) * len(ascending) / effective_count)) - 1
    return int(ascending[len(ascending) - 1 - above])


def early_stopping(ascending: NDArray[np.int64], quantile: Fraction, confidence: float = CONFIDENCE) -> int | None:
    """MLPerf LoadGen's early-stopping estimate of a quantile; None below its fewest queries.

    With t the largest number for which `minimum_count(quantile, confidence, t)` is at most the count, it is the largest
    value but for the t - 1 highest: one rank more cautious than `upper_bound`. It takes the values as independent.
    """
    overs = overs_allowed(len(ascending), quantile, confidence)
    return int(ascending[len(ascending) - overs]) if overs >= 1 else None


def share_interval(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval of a share, of which `count` in `of` independent trials were seen.

    It covers the share with at least this confidence, however few were seen; (0, 1) where nothing was tried.
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(count, of - count + 1, tail)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, of - count, 1 - tail)) if count < of else 1.0
    return low, high


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last number for which something holds that holds for `low`, does not for `high`, and changes once between."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _at_most(overs: int, count: int, quantile: Fraction) -> float:
    """P(Binomial(count, 1 - quantile) <= overs) for overs < count, accurate in the far tail as well."""
    from scipy.special import betaincc

    return float(betaincc(overs + 1, count - overs, float(1 - quantile)))
