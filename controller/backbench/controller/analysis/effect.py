"""How one set of launches compares with another: a ratio with its interval, and what may be said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.dependence import effective_count

Verdict = Literal["faster", "slower", "equivalent", "inconclusive"]

MARGIN = 0.01
"""A difference that matters to nobody."""

_CONFIDENCE = 0.95
_MOST_FRAMES = 5000
_INNER_RESAMPLES = 400

_Floats = NDArray[np.float64]


def ratio_interval(
    a: Sequence[NDArray[np.int64]], b: Sequence[NDArray[np.int64]], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float | None, float | None]:
    """(ratio, low, high) of b's latency to a's, the mean over launches of a launch's median, with 95 % confidence.

    `a` and `b` hold one array a launch, in order of the frames. The interval is a two-level bootstrap (Kalibera and
    Jones, 2013): launches are drawn, and of each a moving-block resample of its frames, with blocks of at least the
    autocorrelation time. As few launches spread less than many, the interval is widened around the ratio by
    t * sqrt(R / (R - 1)) / z (Hesterberg, 2015), with R launches on the smaller side and 2R - 2 degrees of freedom.
    Launches of more than 5000 frames are thinned evenly. `low` and `high` are None where a side has one launch only:
    nothing in it tells how another launch would differ. Raises ValueError where a side has no frames.
    """
    a, b = [_thinned(each) for each in a if len(each)], [_thinned(each) for each in b if len(each)]
    if not a or not b:
        raise ValueError("a comparison needs at least one launch with frames on each side")
    ratio = _level(b) / _level(a)
    fewest = min(len(a), len(b))
    if fewest == 1:
        return ratio, None, None
    random = np.random.default_rng(seed)
    shifts = np.log(_resampled(b, resamples, random) / _resampled(a, resamples, random)) - math.log(ratio)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(shifts, [tail, 1 - tail]) * _widening(fewest)
    return ratio, ratio * math.exp(min(low, 0.0)), ratio * math.exp(max(high, 0.0))


def verdict(low: float | None, high: float | None, noise_floor: float = 0.0) -> Verdict:
    """What an interval of a ratio says: "faster" or "slower" when it lies wholly outside the margin on that side.

    The margin is 1 %, or `noise_floor` where comparing a thing with itself showed more. "equivalent" needs the whole
    interval within it; everything else is "inconclusive", and so is an interval that could not be told.
    """
    margin = max(MARGIN, abs(noise_floor))
    if low is None or high is None:
        return "inconclusive"
    if high < 1 - margin:
        return "faster"
    if low > 1 + margin:
        return "slower"
    return "equivalent" if low >= 1 - margin and high <= 1 + margin else "inconclusive"


def _level(launches: Sequence[NDArray[np.int64]]) -> float:
    return float(np.mean([np.median(launch) for launch in launches]))


def _resampled(launches: Sequence[NDArray[np.int64]], resamples: int, random: np.random.Generator) -> _Floats:
    """The level of as many resamples. A launch's inner resamples are made once and drawn from."""
    inner = np.array([_block_medians(launch, min(resamples, _INNER_RESAMPLES), random) for launch in launches])
    shape = (resamples, len(launches))
    drawn = inner[random.integers(len(launches), size=shape), random.integers(inner.shape[1], size=shape)]
    return np.asarray(np.mean(drawn, axis=1), dtype=np.float64)


def _block_medians(launch: NDArray[np.int64], resamples: int, random: np.random.Generator) -> _Floats:
    """Medians of moving-block resamples of a launch's frames (Kuensch, 1989)."""
    count = len(launch)
    time = count / effective_count(launch)
    length = min(max(math.ceil(2 * time), math.ceil(count ** (1 / 3))), max(count // 2, 1))
    starts = random.integers(count - length + 1, size=(resamples, -(-count // length)))
    rows = (starts[:, :, np.newaxis] + np.arange(length)).reshape(resamples, -1)[:, :count]
    return np.asarray(np.median(launch[rows], axis=1), dtype=np.float64)


def _widening(launches: int) -> float:
    from scipy.stats import norm, t

    quantile = (1 + _CONFIDENCE) / 2
    return float(t.ppf(quantile, 2 * launches - 2) * math.sqrt(launches / (launches - 1)) / norm.ppf(quantile))


def _thinned(launch: NDArray[np.int64]) -> NDArray[np.int64]:
    return launch[:: -(-len(launch) // _MOST_FRAMES)]
