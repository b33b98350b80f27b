"""How many independent values a sequence of dependent ones is worth."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.percentiles import nearest_rank

_LEVELS = (Fraction(50, 100), Fraction(90, 100), Fraction(99, 100))
_FEWEST = 4


def effective_count(values: NDArray[np.int64 | np.float64]) -> float:
    """How many independent values these, in order, are worth for a percentile: from 1 to their number.

    It is n / tau, with tau the integrated autocorrelation time of the indicator "above the quantile", the longest of
    those for p50, p90 and p99: the upper indicators alone have too few ones to show a slow drift. The sum ends by
    Geyer's initial positive sequence (Practical Markov Chain Monte Carlo, 1992). A constant sequence, and one of fewer
    than four, counts in full. 0 for no values.
    """
    if len(values) < _FEWEST:
        return float(len(values))
    ascending = np.sort(values)
    indicators = (values > _at_rank(ascending, level) for level in _LEVELS)
    return len(values) / max(_autocorrelation_time(indicator) for indicator in indicators)


def _at_rank(ascending: NDArray[np.int64 | np.float64], level: Fraction) -> float | int:
    """The nearest rank, of whole numbers as well as of others, with no rounding."""
    positions = np.arange(len(ascending))
    found: float | int = ascending[nearest_rank(positions, level)]
    return found


def _autocorrelation_time(indicator: NDArray[np.bool_]) -> float:
    """tau = 1 + 2 * (sum of the autocorrelations), at least 1, at most their number."""
    if indicator.all() or not indicator.any():
        return 1.0
    correlations = _autocorrelation((indicator - indicator.mean()).astype(np.float32))
    paired = correlations[: len(correlations) // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(paired <= 0)
    kept = paired[: negative[0]] if len(negative) else paired
    return min(max(2 * float(kept.sum()) - 1, 1.0), float(len(indicator)))


def _autocorrelation(centred: NDArray[np.float32]) -> NDArray[np.float32]:
    """At lags 0, 1, 2 ..., 1 at lag 0; by Fourier transform, padded so that nothing wraps around.

    Single precision is far finer than what is estimated, and takes half the time for millions of frames.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    count = len(centred)
    length = next_fast_len(2 * count - 1, real=True)
    spectrum = rfft(centred, length)
    covariances = np.asarray(irfft(spectrum * spectrum.conj(), length)[:count], dtype=np.float32)
    return np.asarray(covariances / covariances[0], dtype=np.float32)
