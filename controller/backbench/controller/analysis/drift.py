"""How a long run changes: minute by minute, and as slopes of latency and memory over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.dependence import effective_count
from backbench.controller.analysis.percentiles import QUANTILES, enough, nearest_rank

_MINUTE_NS = 60 * 10**9
_HOUR_S = 3600
_MOST_POINTS = 500
_FEWEST_POINTS = 10

_Times = NDArray[np.int64] | NDArray[np.float64]


def minute_curve(
    done_ns: NDArray[np.int64], service_ns: NDArray[np.int64], dropped_due_ns: NDArray[np.int64] | None = None
) -> list[dict[str, Any]]:
    """A row {minute, n, dropped, p50_ms, p99_ms, fps} for every minute of one launch, those without a result included.

    `done_ns` and `service_ns` are the completed frames, `dropped_due_ns` the arrivals of the dropped ones, None where
    frames cannot be dropped (`dropped` is None then). Minutes count from the first frame's start; a frame belongs to
    the one it was done in, a dropped one to that of its arrival. A percentile is None where the minute's frames cannot
    carry it; `fps` of the last minute is over the part of it that was measured.
    """
    drops = np.zeros(0, np.int64) if dropped_due_ns is None else dropped_due_ns
    if len(done_ns) + len(drops) == 0:
        return []
    start = int(np.concatenate([done_ns - service_ns, drops]).min())
    end = int(np.concatenate([done_ns, drops]).max())
    last = (end - start) // _MINUTE_NS
    of_minute = _split(service_ns, (done_ns - start) // _MINUTE_NS, last)
    dropped_of_minute = _split(drops, (drops - start) // _MINUTE_NS, last)
    rows = []
    for minute in range(last + 1):
        length_ns = min(_MINUTE_NS, end - start - minute * _MINUTE_NS)
        within = of_minute[minute]
        rows.append(
            {
                "minute": minute,
                "n": len(within),
                "dropped": None if dropped_due_ns is None else len(dropped_of_minute[minute]),
                **percentiles_ms(within),
                "fps": len(within) / (length_ns / 1e9) if length_ns else None,
            }
        )
    return rows


def percentiles_ms(times_ns: NDArray[np.int64]) -> dict[str, float | None]:
    """{p50_ms, p99_ms} of times in order; None where they cannot carry it."""
    effective, ascending = effective_count(times_ns), np.sort(times_ns)
    return {
        f"{name}_ms": nearest_rank(ascending, QUANTILES[name]) / 1e6 if enough(effective, QUANTILES[name]) else None
        for name in ("p50", "p99")
    }


def slope(times_s: NDArray[np.float64], values: _Times, confidence: float = 0.95) -> dict[str, float] | None:
    """{per_hour, low, high}: the Theil-Sen slope of the values in their unit per hour, with Sen's interval (1968).

    More than 500 points become medians of consecutive blocks, which also makes the points more independent than the
    values were; None for fewer than ten points.
    """
    if len(values) < _FEWEST_POINTS:
        return None
    from scipy.stats import theilslopes

    found = theilslopes(_thinned(values), _thinned(times_s - times_s[0]), alpha=confidence)
    per_hour, low, high = (float(each) * _HOUR_S for each in (found[0], found[2], found[3]))
    return {"per_hour": per_hour, "low": low, "high": high}


def latency_drift(done_ns: NDArray[np.int64], service_ns: NDArray[np.int64]) -> dict[str, float] | None:
    """{per_hour, low, high} of one launch's service times, as shares of their median; None for too few frames.

    0.02 means that the launch became 2 % slower an hour.
    """
    found = slope((done_ns - done_ns[:1]) / 1e9, service_ns)
    level = float(np.median(service_ns)) if found else 0.0
    return {name: value / level for name, value in found.items()} if found and level else None


def memory_growth(
    times_ns: NDArray[np.int64], resident_bytes: NDArray[np.int64], fps: float | None = None
) -> dict[str, Any] | None:
    """What a worker's memory grew by, from samples of it: {bytes_per_hour, kb_per_1000_frames}.

    Each is {value, low, high}. kB are 1000 bytes. `fps` is the rate of completed frames; without it
    `kb_per_1000_frames` is None. None for fewer than ten samples.
    """
    found = slope((times_ns - times_ns[:1]) / 1e9, resident_bytes)
    if found is None:
        return None
    growth = {"value": found["per_hour"], "low": found["low"], "high": found["high"]}
    # bytes a frame are kB a thousand frames
    by_frame = {name: value / (fps * _HOUR_S) for name, value in growth.items()} if fps else None
    return {"bytes_per_hour": growth, "kb_per_1000_frames": by_frame}


def _split(values: NDArray[np.int64], minutes: NDArray[np.int64], last: int) -> list[NDArray[np.int64]]:
    """The values of each minute from 0 to `last`, in order."""
    order = np.argsort(minutes, kind="stable")
    return np.split(values[order], np.searchsorted(minutes[order], np.arange(1, last + 1)))


def _thinned(values: _Times) -> NDArray[np.float64]:
    size = -(-len(values) // _MOST_POINTS)
    count = len(values) // size
    return np.asarray(np.median(values[: count * size].reshape(count, size), axis=1), dtype=np.float64)
