"""Frames that took far longer than those around them, and what speaks for and against a cause.

A spike's grade is about throttling: `confirmed` when a witness changed within it and the clock fell, or a live state
was on before and after it; `consistent` when only one of these is so; `excluded` when a witness was read around it and
stayed clean; `unexplained` when nothing looked. Other causes have grades of their own, by the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from backbench.controller.analysis.latency import Columns, completed, sequences, timed, values
from backbench.controller.analysis.telemetry import Intervals, Series, Telemetry, merged, overlaps
from backbench.controller.analysis.throttle import Throttling, counter_steps
from backbench.domain.frame import FrameTag

GRADES = ("confirmed", "consistent", "unexplained", "excluded")
RULE = "longer than the median of the frames around it by 6 MAD and by 5 %"
FEWEST_FRAMES = 31
LISTED = 20
_AROUND = 101
_FACTOR = 6
_LEAST_SHARE = 0.05
_PLACES = 20_000
_CLOCK_FELL = 0.95
_OWN_SHARE = 0.1
_USUAL_FACTOR = 2.0

Graded = tuple[str, str]
"""A grade and the witness that gave it."""


@dataclass(frozen=True, slots=True)
class _Spikes:
    """Columns: row of the frame, times, and what was usual there."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    usual_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def longest(self, count: int) -> _Spikes:
        """Those that took the most more than usual, in order of time."""
        excess = self.ends - self.starts - self.usual_ns
        chosen = np.sort(np.argsort(-excess, kind="stable")[:count])
        return _Spikes(self.rows[chosen], self.starts[chosen], self.ends[chosen], self.usual_ns[chosen])


def spikes_document(
    frames: Columns, telemetry: Telemetry, throttling: Throttling, policy_changes: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """{count, rule, grades, rows}: the count of all, and the 20 longest with their causes; None for too few frames."""
    found = _found(frames)
    if found is None:
        return None
    fell = _clocks_fell(telemetry, throttling, found.starts, found.ends)
    grades = _throttle_grades(telemetry, throttling, fell, found.starts, found.ends)
    listed = found.longest(LISTED)
    by_row = dict(zip(found.rows.tolist(), grades, strict=True))
    begun = int(frames["due_ns"][timed(frames)].compressed().min())
    return {
        "count": len(found),
        "rule": RULE,
        "grades": {name: Counter(grade for grade, _ in grades)[name] for name in GRADES},
        "rows": [_row(frames, telemetry, listed, place, by_row, policy_changes, begun) for place in range(len(listed))],
    }


def _found(frames: Columns) -> _Spikes | None:
    parts = []
    for places in sequences(frames, timed(frames) & completed(frames)).values():
        starts, ends = values(frames, "dequeued_ns", places), values(frames, "done_ns", places)
        if starts is None or ends is None or len(places) < FEWEST_FRAMES:
            continue
        usual, limit = _limits(ends - starts)
        which = ends - starts > limit
        parts.append(np.stack([places[which], starts[which], ends[which], usual[which].astype(np.int64)]))
    if not parts:
        return None
    columns = np.concatenate(parts, axis=1)
    return _Spikes(columns[0], columns[1], columns[2], columns[3])


def _limits(service: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The median of the frames around each, and the limit there; a long run has them at 20,000 places."""
    width = min(_AROUND, len(service) - (len(service) + 1) % 2)
    around = sliding_window_view(service, width)
    step = -(-len(around) // _PLACES)
    chosen = around[::step]
    medians = np.median(chosen, axis=1)
    deviations = np.median(np.abs(chosen - medians[:, None]), axis=1)
    limits = medians + np.maximum(_FACTOR * deviations, _LEAST_SHARE * medians)
    place = np.clip(np.arange(len(service)) - width // 2, 0, len(around) - 1) // step
    return medians[place], limits[place]


def _throttle_grades(
    telemetry: Telemetry,
    throttling: Throttling,
    fell: NDArray[np.bool_],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> list[Graded]:
    changed, both, known = (np.zeros(len(starts), np.bool_) for _ in range(3))
    names: list[list[str]] = [[] for _ in range(len(starts))]
    for witness in throttling.witnesses:
        held = overlaps(merged([witness.held]), starts, ends)
        if witness.sees_heat and witness.verdict is not None:  # others staying clean excludes nothing
            known |= overlaps(merged([witness.known]), starts, ends)
        changed |= held
        if witness.kind == "live":
            both |= held & _on_both_sides(telemetry.series[witness.name], starts, ends)
        for place in np.flatnonzero(held):
            names[place].append(_said(telemetry.series[witness.name], witness.kind, starts[place], ends[place]))
    return [
        _grade(bool(changed[place]), bool(fell[place]), bool(both[place]), bool(known[place]), names[place])
        for place in range(len(starts))
    ]


def _grade(changed: bool, fell: bool, both: bool, known: bool, names: Sequence[str]) -> Graded:
    said = ", ".join([*names, *(["the clock fell"] if fell else [])])
    if both or (changed and fell):
        return "confirmed", said
    if changed or fell:
        return "consistent", said
    return ("excluded", "every witness stayed clean") if known else ("unexplained", "no witness was read around it")


def _on_both_sides(series: Series, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    before = np.searchsorted(series.times_ns, starts, side="right") - 1
    after = np.searchsorted(series.times_ns, ends)
    there = (before >= 0) & (after < len(series.times_ns))
    last = len(series.values) - 1
    return np.asarray(
        there & (series.values[np.maximum(before, 0)] != 0) & (series.values[np.minimum(after, last)] != 0)
    )


def _said(series: Series, kind: str, start: int, end: int) -> str:
    if kind != "counter":
        return series.name
    return f"{series.name} +{_grown(series, int(start), int(end))}"


def _grown(counter: Series, start_ns: int, end_ns: int) -> int:
    """What a counter grew by from the sample before an interval to the one after it and its delay."""
    times = counter.times_ns
    first = max(int(np.searchsorted(times, start_ns, side="right")) - 1, 0)
    last = int(np.searchsorted(times, end_ns + counter.latency_ns))
    return int(counter_steps(counter)[first:last].sum())


def _clocks_fell(
    telemetry: Telemetry, throttling: Throttling, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """A delivered clock below the requested one, or a limit that lies below what it was when the run began."""
    held = [each.held for each in throttling.witnesses if each.kind == "clock"]
    for series in telemetry.named("cpu.clock_max.", "gpu.clock_max"):
        low = series.values < _CLOCK_FELL * series.values[0]
        times, width = series.times_ns[low], series.half_width_ns
        held.append(np.stack([times - width, times + width], axis=1))
    return overlaps(merged(held), starts, ends)


def _row(
    frames: Columns,
    telemetry: Telemetry,
    spikes: _Spikes,
    place: int,
    grades: Mapping[int, Graded],
    policy_changes: Sequence[Mapping[str, Any]],
    begun_ns: int,
) -> dict[str, Any]:
    row, start, end, usual = (int(each[place]) for each in (spikes.rows, spikes.starts, spikes.ends, spikes.usual_ns))
    grade, witness = grades[row]
    tags = int(np.ma.getdata(frames["tags"])[row])
    causes = {
        "processor quota": _more(telemetry, ("cgroup.",), start, end),
        "memory": _tagged(tags, FrameTag.MAJOR_FAULT, _more(telemetry, ("psi.mem.", "proc.majflt"), start, end)),
        "other processes": _tagged(
            tags, FrameTag.INVOLUNTARY_SWITCH, _more(telemetry, ("psi.cpu.some", "proc.ctx_invol"), start, end)
        ),
        "governor": _ramp(telemetry, start, end),
        "changed limits": _changed(telemetry, policy_changes, begun_ns, start, end),
        "a sensor's read": _own(telemetry, start, end, end - start - usual),
    }
    if tags & FrameTag.GARBAGE_COLLECTION:
        causes["garbage collection"] = ("confirmed", "within the frame")
    return {
        "launch": int(np.ma.getdata(frames["launch"])[row]),
        "stream": int(np.ma.getdata(frames["stream"])[row]) if "stream" in frames else 0,
        "index": int(np.ma.getdata(frames["index"])[row]),
        "at_s": round((start - begun_ns) / 1e9, 4),
        "service_ms": (end - start) / 1e6,
        "usual_ms": usual / 1e6,
        "grade": grade,
        "witness": witness,
        "causes": [{"cause": name, "grade": each[0], "witness": each[1]} for name, each in causes.items() if each],
    }


def _tagged(tags: int, tag: FrameTag, other: Graded | None) -> Graded | None:
    return ("confirmed", "within the frame") if tags & tag else other


def _more(telemetry: Telemetry, prefixes: tuple[str, ...], start_ns: int, end_ns: int) -> Graded | None:
    """Counters that grew by more than twice what is usual in such a time."""
    found = [series for series in telemetry.named(*prefixes) if len(series.values) > 1]
    if not found:
        return None
    for series in found:
        steps = counter_steps(series)
        width = series.half_width_ns
        first = max(int(np.searchsorted(series.times_ns, start_ns - width, side="right")) - 1, 0)
        last = min(int(np.searchsorted(series.times_ns, end_ns + width)), len(steps))
        grown = int(steps[first:last].sum())
        if grown > _USUAL_FACTOR * float(np.median(steps)) * max(last - first, 1):
            return "consistent", f"{series.name} +{grown}"
    return "excluded", found[0].name


def _ramp(telemetry: Telemetry, start_ns: int, end_ns: int) -> Graded | None:
    """A clock that was below its limit just before, and rose."""
    looked = ""
    for series in telemetry.named("cpu.clock.", "gpu.clock"):
        limit = telemetry.series.get(series.name.replace("clock", "clock_max", 1))
        if series.name.startswith("gpu.clock_") or limit is None:
            continue
        reach = 2 * series.period_ns
        most, before = limit.at(start_ns), series.within(start_ns - reach, start_ns).values
        after = series.within(start_ns, end_ns + reach).values
        if most is None or len(before) == 0 or len(after) == 0:
            continue
        looked, low = series.name, int(before.min())
        if low < _CLOCK_FELL * most and int(after.max()) > low:
            return "consistent", f"{series.name} was {low / 1e6:.0f} of {most / 1e6:.0f} MHz and rose"
    return ("excluded", looked) if looked else None


def _changed(
    telemetry: Telemetry, changes: Sequence[Mapping[str, Any]], begun_ns: int, start_ns: int, end_ns: int
) -> Graded | None:
    for change in changes:
        series = telemetry.series[change["channel"]]
        at_ns, width = begun_ns + int(change["at_s"] * 1e9), series.half_width_ns + series.period_ns
        if start_ns - width <= at_ns <= end_ns + width:
            return "consistent", f"{series.name} changed"
    return ("excluded", "no limit changed") if telemetry.named("cpu.clock_max.", "gpu.clock_max", "mode.") else None


def _own(telemetry: Telemetry, start_ns: int, end_ns: int, excess_ns: int) -> Graded | None:
    """Reads by the agent within the frame that took a tenth of what it was late by, or more."""
    if not telemetry.reads:
        return None
    for source, reads in sorted(telemetry.reads.items()):
        taken = _overlap_ns(reads, start_ns, end_ns)
        if taken >= _OWN_SHARE * max(excess_ns, 1):
            return "consistent", f"{source} was read for {taken / 1e6:.2f} ms"
    return "excluded", "no read was long enough"


def _overlap_ns(reads: Intervals, start_ns: int, end_ns: int) -> int:
    first, last = np.searchsorted(reads[:, 1], start_ns), np.searchsorted(reads[:, 0], end_ns)
    near = reads[first:last]
    return int((np.minimum(near[:, 1], end_ns) - np.maximum(near[:, 0], start_ns)).clip(0).sum())
