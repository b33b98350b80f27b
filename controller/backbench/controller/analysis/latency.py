"""From the columns of a run's frames to distributions in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.bounds import early_stopping, upper_bound
from backbench.controller.analysis.dependence import effective_count
from backbench.controller.analysis.percentiles import QUANTILES, enough, nearest_rank
from backbench.domain.frame import DROPPED, OUTCOME_NUMBERS, FrameOutcome, FrameTag

Columns = Mapping[str, "np.ma.MaskedArray[Any, np.dtype[np.int64]]"]
"""Columns of int64 by the names of `FrameBlock`, masked where a value is absent; all of the same length."""

SequenceKey = tuple[int, int]
"""The launch and the stream of frames that followed one another."""

Sequences = tuple[NDArray[np.int64], ...]
"""One array for each launch and stream, by their numbers, each in order of the rows."""

PARTS = ("preprocess", "host_to_device", "compute", "device_to_host", "postprocess")
"""Measured parts of `service`, each the column `<part>_ns`."""
SPANS = ("e2e", "service", "queue_delay", *PARTS, "host_gap")
_OUTLIER_FACTORS = (2, 5, 10)
_EARLY_STOPPING = ("p90", "p95", "p99")


def spans_ns(frames: Columns, cut: Mapping[SequenceKey, int] | None = None) -> dict[str, Sequences | None]:
    """Every span of the frames that were timed and completed; None for a span that was not measured.

    e2e = done - due, service = done - dequeued, queue_delay = dequeued - due, and host_gap is what of service no part
    explains. All spans have one sequence for each key of `sequences`, of the same lengths. Warm-up frames are left out,
    and so are the first `cut[launch, stream]` frames of a sequence: a transient, counted as `steadiness` counts it.
    Nothing else is.
    """
    cut = cut or {}
    rows = [kept[cut.get(key, 0) :] for key, kept in sequences(frames, timed(frames) & completed(frames)).items()]
    spans: dict[str, Sequences | None] = {
        "e2e": _differences(frames, "done_ns", "due_ns", rows),
        "service": _differences(frames, "done_ns", "dequeued_ns", rows),
        "queue_delay": _differences(frames, "dequeued_ns", "due_ns", rows),
        **{part: _all_values(frames, f"{part}_ns", rows) for part in PARTS},
    }
    spans["host_gap"] = _gaps(spans["service"], [span for part in PARTS if (span := spans[part]) is not None])
    return spans


def sequences(frames: Columns, kept: NDArray[np.bool_]) -> dict[SequenceKey, NDArray[np.intp]]:
    """The numbers of the kept rows of each launch and stream, in order; tables without streams have stream 0 alone."""
    launches = np.ma.getdata(frames["launch"])
    streams = np.ma.getdata(frames["stream"]) if "stream" in frames else np.zeros_like(launches)
    found = {}
    for launch in np.unique(launches[kept]):
        of_launch = kept & (launches == launch)
        for stream in np.unique(streams[of_launch]):
            found[int(launch), int(stream)] = np.flatnonzero(of_launch & (streams == stream))
    return found


def of_launches(found: Mapping[SequenceKey, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
    """The values of each launch, those of its streams one after the other: only launches are repetitions."""
    launches = dict.fromkeys(launch for launch, _ in found)
    return {
        launch: np.concatenate([each for (place, _), each in found.items() if place == launch]) for launch in launches
    }


def timed(frames: Columns) -> NDArray[np.bool_]:
    """Which rows are not warm-up."""
    return np.asarray(np.ma.getdata(frames["tags"]) & FrameTag.WARM_UP.value == 0)


def completed(frames: Columns) -> NDArray[np.bool_]:
    """Which rows have an output."""
    return ended(frames, FrameOutcome.COMPLETED)


def ended(frames: Columns, *outcomes: FrameOutcome) -> NDArray[np.bool_]:
    """Which rows ended in one of these ways."""
    numbers = [OUTCOME_NUMBERS[outcome] for outcome in outcomes]
    return np.isin(np.ma.getdata(frames["outcome"]), numbers)


def counts(frames: Columns) -> dict[str, int]:
    """Timed frames: offered = completed + dropped + errored, unless some are `unaccounted`."""
    rows = timed(frames)
    kinds = {"completed": (FrameOutcome.COMPLETED,), "dropped": DROPPED, "errored": (FrameOutcome.ERRORED,)}
    return {
        "offered": int(rows.sum()),
        **{name: int(np.sum(rows & ended(frames, *outcomes))) for name, outcomes in kinds.items()},
    }


def unaccounted(frames: Columns, frame_count: int | None) -> int:
    """Timed frames that ended in no known way, are there twice, or are missing of so many a launch and stream."""
    rows = timed(frames)
    found = int(np.sum(rows & ~ended(frames, *FrameOutcome)))
    for places in sequences(frames, rows).values():
        distinct = len(np.unique(np.ma.getdata(frames["index"][places])))
        found += len(places) - distinct + max((frame_count or 0) - distinct, 0)
    return found


def distribution_ms(span: Sequence[NDArray[np.int64]] | None) -> dict[str, Any] | None:
    """A span's distribution over all its sequences, in ms; None where there is no frame.

    `n_eff` is the number of independent frames that the sequences are worth together. A percentile is {value, upper},
    `upper` bounding it with 99 % confidence, or None where `n_eff` is too small to carry it. `early_stopping` are
    MLPerf's estimates, which take all frames as independent. The bounds speak of these launches: what another launch
    would do is told by the spread between launches alone.
    """
    parts = [part for part in span or () if len(part)]
    if not parts:
        return None
    ascending = np.sort(np.concatenate(parts))
    effective = sum(effective_count(part) for part in parts)
    summary: dict[str, Any] = {"n": len(ascending), "n_eff": int(effective), "mean": float(np.mean(ascending)) / 1e6}
    for name, quantile in QUANTILES.items():
        value, upper = nearest_rank(ascending, quantile) / 1e6, _ms(upper_bound(ascending, quantile, effective))
        summary[name] = {"value": value, "upper": upper} if enough(effective, quantile) else None
    summary["early_stopping"] = {name: _ms(early_stopping(ascending, QUANTILES[name])) for name in _EARLY_STOPPING}
    summary["min"] = int(ascending[0]) / 1e6
    summary["max"] = int(ascending[-1]) / 1e6
    median = int(ascending[(len(ascending) - 1) // 2])
    summary["outliers"] = {f"over_{k}x_median": int(np.sum(ascending > k * median)) for k in _OUTLIER_FACTORS}
    return summary


def throughput_fps(frames: Columns) -> float | None:
    """Completed frames a second of a launch's time, from its first frame's start to its last one's end.

    The frames of all streams count, and so do all launches, each with its own time.
    """
    kept = timed(frames) & completed(frames)
    count, length_ns = 0, 0
    launches = np.ma.getdata(frames["launch"])
    for launch in np.unique(launches[kept]):
        rows = np.flatnonzero(kept & (launches == launch))
        start, end = values(frames, "dequeued_ns", rows), values(frames, "done_ns", rows)
        if start is not None and end is not None:
            count += len(end)
            length_ns += int(end.max() - start.min())
    return count / (length_ns / 1e9) if length_ns else None


def values(frames: Columns, name: str, rows: NDArray[np.intp]) -> NDArray[np.int64] | None:
    """A column's values in these rows; None where there is no such column or a value is absent."""
    if name not in frames:
        return None
    column = frames[name][rows]
    if np.ma.getmaskarray(column).any():
        return None
    return np.asarray(np.ma.getdata(column), dtype=np.int64)


def _all_values(frames: Columns, name: str, rows: Sequence[NDArray[np.intp]]) -> Sequences | None:
    found = [values(frames, name, each) for each in rows]
    measured = tuple(each for each in found if each is not None)
    return measured if len(measured) == len(rows) and any(map(len, rows)) else None


def _differences(frames: Columns, later: str, earlier: str, rows: Sequence[NDArray[np.intp]]) -> Sequences | None:
    end, start = _all_values(frames, later, rows), _all_values(frames, earlier, rows)
    return None if end is None or start is None else tuple(b - a for a, b in zip(start, end, strict=True))


def _gaps(service: Sequences | None, parts: Sequence[Sequences]) -> Sequences | None:
    if service is None or not parts:
        return None
    explained = (sum(each) for each in zip(*parts, strict=True))
    return tuple(whole - part for whole, part in zip(service, explained, strict=True))


def _ms(time_ns: int | None) -> float | None:
    return None if time_ns is None else time_ns / 1e6
