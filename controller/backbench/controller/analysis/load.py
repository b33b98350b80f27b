"""What a stream of arrivals met: drops, misses, gaps in the output, and how old the newest result was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.bounds import share_interval
from backbench.controller.analysis.latency import Columns, completed, counts, ended, sequences, timed, values
from backbench.controller.analysis.percentiles import QUANTILES, enough, nearest_rank
from backbench.domain.frame import DROPPED

_LATE_SHARE = 100
"""A pacer is late when its p99 is above a period divided by this."""

_Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Ages:
    """Of the newest completed result: the integral over time in ns^2, the time in ns, and the highest in ns."""

    integral: float
    length_ns: int
    peak_ns: int


def load_document(
    frames: Columns, *, deadline_ns: int | None, period_ns: int | None, confidence: float = 0.95
) -> dict[str, Any]:
    """How the timed frames of an open-loop scenario fared; a quantity that cannot be told is None.

    `drop_ratio` and `miss_ratio` are {value, low, high} with the Clopper-Pearson interval, shares of the offered
    frames; a miss was late, dropped or errored. Drops come in runs: read the interval beside `longest_drop_run` and
    `drop_episodes` (runs of consecutive arrivals). `output_gap_ms` {p99, max} is the time between results.
    `age_of_information_ms` {mean, peak} is now - due of the newest completed result, over the time from the first
    result to the last event. `pacer_lateness_ms` {p50, p99, max} is seen - due of frames that the worker waited for, as
    another is seen when the one before it is done; it describes these frames, however few, and `pacer_late` says
    whether its p99 is above 1 % of a period. `utilisation` is mean service over mean interarrival time.
    `p99_offered_ms` {value, infinite} counts a frame without a result as infinitely late.

    All this is told within each launch and stream, and merged over them: counts, shares, gaps and lateness of all
    together, the longest run and the highest age of any, the mean age weighted by time. The other p99 need 459 values.
    """
    found, whole = sequences(frames, timed(frames)), sequences(frames, np.ones_like(timed(frames)))
    groups = [_by_arrival(frames, rows) for rows in found.values()]
    done = completed(frames)
    finished = [rows[done[rows]] for rows in groups]
    dropped = ended(frames, *DROPPED)
    runs = np.concatenate([_run_lengths(dropped[rows]) for rows in groups] or [np.zeros(0, np.int64)])
    count, offered = counts(frames), timed(frames)
    late = [_lateness_ns(frames, rows, whole[key]) for key, rows in found.items()]
    lateness = _joined([each for each in late if each is not None])
    return {
        "drop_ratio": _share(count["dropped"], count["offered"], confidence),
        "dropped": {outcome.value: int(np.sum(offered & ended(frames, outcome))) for outcome in DROPPED},
        "longest_drop_run": int(runs.max(initial=0)),
        "drop_episodes": len(runs),
        "deadline_ms": None if deadline_ns is None else deadline_ns / 1e6,
        "miss_ratio": _miss_ratio(frames, finished, count["offered"], deadline_ns, confidence),
        "output_gap_ms": _output_gap_ms(_joined([_gaps_ns(frames, rows) for rows in finished])),
        "age_of_information_ms": _age_ms([_ages(frames, *pair) for pair in zip(groups, finished, strict=True)]),
        "pacer_lateness_ms": _pacer_lateness_ms(lateness),
        "pacer_late": _is_late(lateness, period_ns),
        "utilisation": _utilisation(frames, groups, finished),
        "p99_offered_ms": _p99_offered_ms(frames, finished, count["offered"]),
    }


def _by_arrival(frames: Columns, rows: _Rows) -> _Rows:
    """Sorted by due time: rows are written when frames end, not when they arrive."""
    due = values(frames, "due_ns", rows)
    return rows if due is None else rows[np.argsort(due, kind="stable")]


def _run_lengths(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    edges = np.flatnonzero(np.diff(marks.astype(np.int8), prepend=0, append=0))
    return np.asarray(edges[1::2] - edges[::2], dtype=np.int64)


def _share(count: int, of: int, confidence: float) -> dict[str, float] | None:
    if of == 0:
        return None
    low, high = share_interval(count, of, confidence)
    return {"value": count / of, "low": low, "high": high}


def _miss_ratio(
    frames: Columns, finished: Sequence[_Rows], offered: int, deadline_ns: int | None, confidence: float
) -> dict[str, float] | None:
    latencies = _joined([_difference(frames, "done_ns", "due_ns", rows) for rows in finished])
    if deadline_ns is None or latencies is None:
        return None
    return _share(offered - int(np.sum(latencies <= deadline_ns)), offered, confidence)


def _gaps_ns(frames: Columns, finished: _Rows) -> NDArray[np.int64] | None:
    done = values(frames, "done_ns", finished)
    return None if done is None else np.asarray(np.diff(np.sort(done)), dtype=np.int64)


def _ages(frames: Columns, rows: _Rows, finished: _Rows) -> _Ages | None:
    """The age grows with time and falls back when a newer result comes, so its integral is one of straight pieces."""
    done, due = values(frames, "done_ns", finished), values(frames, "due_ns", finished)
    if done is None or due is None or len(done) == 0:
        return None
    order = np.argsort(done, kind="stable")
    newest = np.maximum.accumulate(due[order])
    ends = np.append(done[order][1:], _last_event(frames, rows))
    young, old = done[order] - newest, ends - newest
    lengths = old - young
    integral = float(np.sum(lengths * (young.astype(np.float64) + old) / 2))
    return _Ages(integral, int(lengths.sum()), int(old.max()))


def _last_event(frames: Columns, rows: _Rows) -> int:
    columns = (frames[name][rows].compressed() for name in ("due_ns", "dequeued_ns", "done_ns") if name in frames)
    return max((int(column.max()) for column in columns if len(column)), default=0)


def _age_ms(ages: Sequence[_Ages | None]) -> dict[str, float | None] | None:
    told = [each for each in ages if each is not None]
    if not told:
        return None
    length_ns = sum(each.length_ns for each in told)
    mean = sum(each.integral for each in told) / length_ns / 1e6 if length_ns else None
    return {"mean": mean, "peak": max(each.peak_ns for each in told) / 1e6}


def _lateness_ns(frames: Columns, rows: _Rows, whole: _Rows) -> NDArray[np.int64] | None:
    """seen - due of the rows that were due while none of the whole sequence was being served; None if none was seen."""
    if "seen_ns" not in frames or np.ma.getmaskarray(frames["seen_ns"][rows]).all():
        return None
    rows = rows[~np.ma.getmaskarray(frames["seen_ns"][rows])]
    served = whole[~np.ma.getmaskarray(frames["dequeued_ns"][whole])]
    served = served[np.argsort(np.ma.getdata(frames["dequeued_ns"][served]), kind="stable")]
    due = np.ma.getdata(frames["due_ns"][rows])
    starts = np.ma.getdata(frames["dequeued_ns"][served])
    ends = frames["done_ns"][served].filled(np.iinfo(np.int64).max)  # one that failed lasts until the next one starts
    before = np.searchsorted(starts, due) - 1
    waited = (before < 0) | (ends[before] <= due) if len(ends) else np.ones(len(rows), np.bool_)
    return np.asarray((np.ma.getdata(frames["seen_ns"][rows]) - due)[waited], dtype=np.int64)


def _is_late(lateness: NDArray[np.int64] | None, period_ns: int | None) -> bool | None:
    if lateness is None or len(lateness) == 0 or period_ns is None:
        return None
    return nearest_rank(np.sort(lateness), QUANTILES["p99"]) * _LATE_SHARE > period_ns


def _utilisation(frames: Columns, groups: Sequence[_Rows], finished: Sequence[_Rows]) -> float | None:
    service = _joined([_difference(frames, "done_ns", "dequeued_ns", rows) for rows in finished])
    arrivals = [values(frames, "due_ns", rows) for rows in groups]
    between = _joined([None if due is None else np.diff(due) for due in arrivals])
    if service is None or between is None or len(service) == 0 or not between.any():
        return None
    return float(np.mean(service)) / float(np.mean(between))


def _p99_offered_ms(frames: Columns, finished: Sequence[_Rows], offered: int) -> dict[str, float | bool | None]:
    latencies = _joined([_difference(frames, "done_ns", "due_ns", rows) for rows in finished])
    if latencies is None or not enough(offered, QUANTILES["p99"]):
        return {"value": None, "infinite": None}
    rank = nearest_rank(np.arange(offered), QUANTILES["p99"])
    if rank >= len(latencies):
        return {"value": None, "infinite": True}
    return {"value": int(np.sort(latencies)[rank]) / 1e6, "infinite": False}


def _difference(frames: Columns, later: str, earlier: str, rows: _Rows) -> NDArray[np.int64] | None:
    end, start = values(frames, later, rows), values(frames, earlier, rows)
    return None if end is None or start is None else end - start


def _joined(parts: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    """All together; None where one cannot be told, or there is none."""
    told = [part for part in parts if part is not None]
    return np.concatenate(told) if told and len(told) == len(parts) else None


def _output_gap_ms(gaps_ns: NDArray[np.int64] | None) -> dict[str, float | None] | None:
    if gaps_ns is None or len(gaps_ns) == 0:
        return None
    carried = enough(len(gaps_ns), QUANTILES["p99"])
    return {"p99": _rank_ms(gaps_ns, "p99") if carried else None, "max": int(gaps_ns.max()) / 1e6}


def _pacer_lateness_ms(lateness_ns: NDArray[np.int64] | None) -> dict[str, float] | None:
    if lateness_ns is None or len(lateness_ns) == 0:
        return None
    p50, p99 = (_rank_ms(lateness_ns, name) for name in ("p50", "p99"))
    return {"p50": p50, "p99": p99, "max": int(lateness_ns.max()) / 1e6}


def _rank_ms(times_ns: NDArray[np.int64], name: str) -> float:
    return nearest_rank(np.sort(times_ns), QUANTILES[name]) / 1e6
