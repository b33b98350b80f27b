"""Whether a launch was steady, from when on, and how it moved if it was not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.dependence import effective_count

Kind = Literal["flat", "warm-up", "slowdown", "no-steady-state", "too-short"]

MARGIN = 0.01
"""Levels that differ by less are the same for every practical purpose: a margin of equivalence, not a significance."""

_SHORTEST_BLOCK = 5
_MOST_BLOCKS = 400
_FEWEST_BLOCKS = 20

_LONGEST_TRANSIENT = 1 / 3
"""Of the window. A longer one is no transient; that also keeps a step at half-time from being cut away."""
_LAST_BLOCKS = 10
"""MSER looks at no shorter remainder: a few blocks are alike by chance."""

_PENALTY = 15
"""Of one more changepoint, times ln n, as Barrett et al. (2017) take it for the warm-up of virtual machines."""
_SHORTEST_SEGMENT = 1 / 20
"""Of the window: what is shorter is a burst of slow frames, not a level."""
_CHANGES_IN_NOISE = 4
_STANDARD_ERRORS = 3
_MEDIAN_ERROR = 1.2533
"""The standard error of a median of normal values over that of their mean: sqrt(pi / 2)."""
_MAD_TO_SIGMA = 1.4826

_Blocks = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Steadiness:
    """What became of a launch's times.

    `start` is the number of frames to cut: those of a transient, never outliers, at most a third, and 0 unless the rest
    is steady. `drift` is the change over the window by the Theil-Sen slope and `half_shift` that from the first half to
    the second, of the median or of the mean, whichever moved less; both are relative to the median. `segments` are
    (first frame, median_ns) of the stretches whose levels differ, one where nothing changed. The three describe the
    frames from `start` on.
    """

    start: int
    kind: Kind
    drift: float | None
    half_shift: float | None
    segments: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class _Noise:
    """Of block medians around their level: standard deviation, and how many blocks one independent value takes."""

    sigma: float
    time: float

    def error(self, blocks: float) -> float:
        """The standard error of the mean of so many."""
        return self.sigma * math.sqrt(self.time / blocks)


@dataclass(frozen=True, slots=True)
class _Course:
    """How a stretch of blocks moved; `slower` tells something only where it was not steady."""

    steady: bool
    slower: bool
    drift: float
    half_shift: float
    segments: tuple[tuple[int, float], ...]


def steadiness(service_ns: NDArray[np.int64]) -> Steadiness:
    """Judge one launch's service times, in order; "too-short" below 100 frames.

    The medians of at most 400 blocks are judged, so that single slow frames decide nothing. MSER (White, 1997) finds a
    transient; it is cut where it is slower than the rest. The rest is steady where drift, shift of the halves and the
    levels between PELT changepoints (Killick et al., 2012; penalty 15 ln n) all stay within 1 %, or within what the
    noise and its autocorrelation explain. "slowdown" means that it ended slower than it was before.
    """
    size = max(_SHORTEST_BLOCK, -(-len(service_ns) // _MOST_BLOCKS))
    count = len(service_ns) // size
    if count < _FEWEST_BLOCKS:
        return Steadiness(0, "too-short", None, None, ())
    blocks = np.maximum(np.median(service_ns[: count * size].reshape(count, size), axis=1), 1.0)
    cut = _transient(blocks)
    course = _course(blocks[cut:])
    kind: Kind = "warm-up" if cut else "flat"
    if not course.steady:
        kind = "slowdown" if course.slower else "no-steady-state"
        course = _course(blocks) if cut else course
        cut = 0
    segments = tuple(((first + cut) * size, level) for first, level in course.segments)
    return Steadiness(cut * size, kind, course.drift, course.half_shift, segments)


def _transient(blocks: _Blocks) -> int:
    """How many blocks at the beginning are slower than the rest, beyond the margin and the noise; 0 where none is."""
    cut = _mser(blocks, min(int(len(blocks) * _LONGEST_TRANSIENT), len(blocks) - _LAST_BLOCKS))
    if cut == 0:
        return 0
    rest, early = blocks[cut:], blocks[: (cut + 1) // 2]
    level, noise = float(np.median(rest)), _noise(rest)
    tolerance = max(MARGIN * level, (_STANDARD_ERRORS + 1) * _MEDIAN_ERROR * noise.error(len(early)))
    return cut if float(np.median(early)) - level > tolerance else 0


def _mser(blocks: _Blocks, most: int) -> int:
    """The cut d <= most with the smallest squared standard error of what follows: sum of (z - mean)^2 / (m - d)^2."""
    reverse = (blocks - np.median(blocks))[::-1]
    lengths = np.arange(1, len(blocks) + 1)
    squares = np.cumsum(reverse**2) - np.cumsum(reverse) ** 2 / lengths
    return int(np.argmin((squares / lengths**2)[::-1][: most + 1]))


def _course(blocks: _Blocks) -> _Course:
    from scipy.stats import theilslopes

    count, level, noise = len(blocks), float(np.median(blocks)), _noise(blocks)
    drift = float(theilslopes(blocks)[0]) * count / level
    half = count // 2
    shifts = [float(kind(blocks[half:]) - kind(blocks[:half])) / level for kind in (np.median, np.mean)]
    half_shift = min(shifts, key=abs)  # a burst moves the mean alone, and two levels in turn the median alone
    segments = _segments(blocks, noise)
    drifted = abs(drift) > max(MARGIN, _STANDARD_ERRORS * math.sqrt(12) * noise.error(count) / level)
    shift_error = _MEDIAN_ERROR * math.sqrt(2) * noise.error(half) / level
    shifted = abs(half_shift) > max(MARGIN, _STANDARD_ERRORS * shift_error)
    if len(segments) > 1:
        slower = segments[-1][1] > (1 + MARGIN) * max(level for _, level in segments[:-1])
    else:
        slower = (drift if drifted else half_shift) > 0
    return _Course(not (drifted or shifted or len(segments) > 1), slower, drift, half_shift, segments)


def _noise(blocks: _Blocks) -> _Noise:
    """From what remains around the levels of a few changes, so that a step does not pass for noise."""
    changes = min(_CHANGES_IN_NOISE, len(blocks) // 10)
    parts = np.split(_capped(blocks), _changes(blocks, n_bkps=changes))
    residuals = np.concatenate([part - np.mean(part) for part in parts])
    freedom = len(blocks) - 1 - 3 * changes  # a change costs a level, and more for being put where it fits best
    sigma = math.sqrt(float(np.sum(residuals**2)) / freedom)
    time = len(residuals) / effective_count(residuals)
    return _Noise(max(sigma, 0.1 * MARGIN * float(np.median(blocks))), time)


def _segments(blocks: _Blocks, noise: _Noise) -> tuple[tuple[int, float], ...]:
    """(first block, median) between changepoints, neighbours within the margin joined."""
    firsts = [0, *_changes(blocks / noise.error(1), pen=_PENALTY * math.log(len(blocks)))]
    while True:
        levels = [float(np.median(part)) for part in np.split(blocks, firsts[1:])]
        steps = [abs(after / before - 1) for before, after in pairwise(levels)]
        if not steps or min(steps) > MARGIN:
            return tuple(zip(firsts, levels, strict=True))
        del firsts[steps.index(min(steps)) + 1]


def _changes(blocks: _Blocks, **stop: float) -> Sequence[int]:
    """The first blocks of new levels, by least squares: as many as `n_bkps`, or as are worth the penalty `pen`."""
    from ruptures import KernelCPD

    shortest = max(2, int(len(blocks) * _SHORTEST_SEGMENT))
    detector = KernelCPD(kernel="linear", min_size=shortest).fit(_capped(blocks))
    return [int(end) for end in detector.predict(**stop)[:-1]]


def _capped(blocks: _Blocks) -> _Blocks:
    """With what stands out more than any step of interest brought nearer: by its square it would outweigh the rest."""
    level = np.median(blocks)
    reach = 10 * _MAD_TO_SIGMA * np.median(np.abs(blocks - level)) + 0.1 * level
    return np.clip(blocks, level - reach, level + reach)
