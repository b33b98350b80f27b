"""From the columns of a run's frames to distributions in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.percentiles import QUANTILES, minimum_count, nearest_rank
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome, FrameTag

Columns = Mapping[str, "np.ma.MaskedArray[Any, np.dtype[np.int64]]"]
"""Columns of int64 by the names of `FrameBlock`, masked where a value is absent; all of the same length."""

PARTS = ("preprocess", "host_to_device", "compute", "device_to_host", "postprocess")
"""Measured parts of `service`, each the column `<part>_ns`."""
SPANS = ("e2e", "service", "queue_delay", *PARTS, "host_gap")
_OUTLIER_FACTORS = (2, 5, 10)


def spans_ns(frames: Columns) -> dict[str, NDArray[np.int64] | None]:
    """Every span of the frames that were timed and completed, in order; None for a span that was not measured.

    e2e = done - due, service = done - dequeued, queue_delay = dequeued - due, and host_gap is what of service no part
    explains. Warm-up frames are left out, nothing else is.
    """
    kept = timed(frames) & completed(frames)
    spans: dict[str, NDArray[np.int64] | None] = {
        "e2e": _difference(frames, "done_ns", "due_ns", kept),
        "service": _difference(frames, "done_ns", "dequeued_ns", kept),
        "queue_delay": _difference(frames, "dequeued_ns", "due_ns", kept),
        **{part: _values(frames, f"{part}_ns", kept) for part in PARTS},
    }
    measured = [span for part in PARTS if (span := spans[part]) is not None]
    service = spans["service"]
    spans["host_gap"] = service - sum(measured) if service is not None and measured else None
    return spans


def timed(frames: Columns) -> NDArray[np.bool_]:
    """Which rows are not warm-up."""
    return np.asarray(np.ma.getdata(frames["tags"]) & FrameTag.WARM_UP.value == 0)


def completed(frames: Columns) -> NDArray[np.bool_]:
    """Which rows have an output."""
    return np.asarray(np.ma.getdata(frames["outcome"]) == OUTCOME_NUMBERS[FrameOutcome.COMPLETED])


def counts(frames: Columns) -> dict[str, int]:
    """Timed frames: offered = completed + dropped + errored."""
    rows = timed(frames)
    outcomes = np.ma.getdata(frames["outcome"])[rows]
    done = int(np.sum(outcomes == OUTCOME_NUMBERS[FrameOutcome.COMPLETED]))
    errored = int(np.sum(outcomes == OUTCOME_NUMBERS[FrameOutcome.ERRORED]))
    offered = int(rows.sum())
    return {"offered": offered, "completed": done, "dropped": offered - done - errored, "errored": errored}


def distribution_ms(span: NDArray[np.int64] | None) -> dict[str, Any] | None:
    """A span's distribution in ms; a percentile is None when there are too few samples to carry it.

    `upper` and `n_eff` are None: bounds on percentiles are not computed yet.
    """
    if span is None or len(span) == 0:
        return None
    ascending = np.sort(span)
    summary: dict[str, Any] = {"n": len(span), "n_eff": None, "mean": float(np.mean(span)) / 1e6}
    for name, quantile in QUANTILES.items():
        enough = len(span) >= minimum_count(quantile)
        summary[name] = {"value": nearest_rank(ascending, quantile) / 1e6, "upper": None} if enough else None
    summary["min"] = int(ascending[0]) / 1e6
    summary["max"] = int(ascending[-1]) / 1e6
    median = int(ascending[(len(ascending) - 1) // 2])
    summary["outliers"] = {f"over_{k}x_median": int(np.sum(ascending > k * median)) for k in _OUTLIER_FACTORS}
    return summary


def throughput_fps(frames: Columns) -> float | None:
    """Completed frames a second, from the first one's start to the last one's end, summed over launches' times."""
    kept = timed(frames) & completed(frames)
    count, length_ns = 0, 0
    launches = np.ma.getdata(frames["launch"])
    for launch in np.unique(launches[kept]):
        rows = kept & (launches == launch)
        start, end = _values(frames, "dequeued_ns", rows), _values(frames, "done_ns", rows)
        if start is not None and end is not None:
            count += len(end)
            length_ns += int(end.max() - start.min())
    return count / (length_ns / 1e9) if length_ns else None


def _values(frames: Columns, name: str, rows: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    if name not in frames:
        return None
    column = frames[name][rows]
    if np.ma.getmaskarray(column).any() or len(column) == 0:
        return None
    return np.asarray(np.ma.getdata(column), dtype=np.int64)


def _difference(frames: Columns, later: str, earlier: str, rows: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    end, start = _values(frames, later, rows), _values(frames, earlier, rows)
    return None if end is None or start is None else end - start
