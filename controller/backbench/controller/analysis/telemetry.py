"""Telemetry as series, one a channel, on the frames' own clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.latency import Columns, timed
from backbench.domain.device import SensorChannel
from backbench.domain.telemetry import TelemetryBlock, is_of_chip

Window = tuple[int, int]
"""Start and end in nanoseconds."""
Intervals = NDArray[np.int64]
"""Rows of start and end in nanoseconds."""

_Part = tuple[NDArray[np.int64], NDArray[np.int64]]
_READ = "agent.read."
_SECOND_NS = 10**9
_FEWEST_FOR_PERIOD = 2
_HOLE_PERIODS = 5
_HOLE_NS = 3 * _SECOND_NS


@dataclass(frozen=True, slots=True)
class Series:
    """What was read of one channel, in order; `period_ns` is the usual time between two samples, 0 for one alone."""

    name: str
    unit: str
    times_ns: NDArray[np.int64]
    values: NDArray[np.int64]
    source: str = ""
    period_ns: int = 0
    scope: str = ""
    method: str = ""
    window_ns: int = 0

    @property
    def latency_ns(self) -> int:
        """How long something may have been true before this channel shows it."""
        if self.name.startswith("throttle.events.") and not self.name.endswith(".package"):
            return 2 * _SECOND_NS  # the counters of over-current events arrive in bursts
        if self.name.endswith(".rpi_volt"):
            return 2 * _SECOND_NS  # the kernel's own poll
        if self.name.endswith(".firmware"):
            return _SECOND_NS // 10
        return self.period_ns if self.name.endswith(".cooling") else 0

    @property
    def half_width_ns(self) -> int:
        """How far in time a sample may be from what it tells: half a period, and the meter's window or its delay."""
        return self.period_ns // 2 + max(self.window_ns, self.latency_ns)

    def within(self, start_ns: int, end_ns: int) -> Series:
        """The samples of an interval."""
        first, last = np.searchsorted(self.times_ns, (start_ns, end_ns + 1))
        return replace(self, times_ns=self.times_ns[first:last], values=self.values[first:last])

    def at(self, time_ns: int) -> int | None:
        """The newest value by then; None before the first."""
        place = int(np.searchsorted(self.times_ns, time_ns, side="right")) - 1
        return int(self.values[place]) if place >= 0 else None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Every series by its channel's name, and when each source was read and how long that took, by its name."""

    series: Mapping[str, Series]
    reads: Mapping[str, Intervals]

    def named(self, *prefixes: str) -> list[Series]:
        """The series whose names begin so, in order of their names."""
        return [series for name, series in sorted(self.series.items()) if name.startswith(prefixes)]

    def hottest(self) -> Series | None:
        """The temperature that throttling goes by: of the junction where it is read, else the highest of each time."""
        zones = [zone for zone in self.named("temp.") if is_of_chip(zone.name)]
        junction = self.series.get("temp.tj")
        if junction is not None or not zones:
            return junction
        times = np.unique(np.concatenate([zone.times_ns for zone in zones]))
        known = [_filled(zone, times) for zone in zones]
        return replace(zones[0], name="temp.max", times_ns=times, values=np.max(known, axis=0).astype(np.int64))


def telemetry_series(blocks: Sequence[TelemetryBlock], channels: Iterable[SensorChannel] = ()) -> Telemetry:
    """The blocks of a run as series. `channels` say what each is; one that they lack has no scope."""
    known = {channel.name: channel for channel in channels}
    parts: dict[str, list[_Part]] = {}
    units: dict[str, str] = {}
    sources: dict[str, str] = {}
    for block in blocks:
        source, times = _source(block), np.array(block.time_ns, dtype=np.int64)
        for column in block.columns:
            parts.setdefault(column.channel, []).append(_read(times, column.values))
            units[column.channel], sources[column.channel] = column.unit, source
    made = {name: _series(name, units[name], each, sources[name], known.get(name)) for name, each in parts.items()}
    made = {name: each for name, each in made.items() if len(each.values)}
    series = {name: each for name, each in made.items() if not name.startswith(_READ)}
    reads = {name.removeprefix(_READ): _reads(each) for name, each in made.items() if name.startswith(_READ)}
    return Telemetry(series, reads)


def timed_windows(frames: Columns) -> list[Window]:
    """From the first timed frame's arrival to the last one's end, a pair a launch."""
    kept = timed(frames)
    launches = np.ma.getdata(frames["launch"])
    windows = []
    for launch in np.unique(launches[kept]):
        rows = kept & (launches == launch)
        seen = [frames[name][rows].compressed() for name in ("due_ns", "dequeued_ns", "done_ns")]
        times = np.concatenate(seen)
        if len(times):
            windows.append((int(times.min()), int(times.max())))
    return windows


def length_s(windows: Sequence[Window]) -> float:
    """How long they are together."""
    return sum(end - start for start, end in windows) / 1e9


def holes(times_ns: NDArray[np.int64], period_ns: int, windows: Sequence[Window]) -> list[Window]:
    """Stretches of the windows without a sample: longer than 3 s and than five periods."""
    limit = max(_HOLE_PERIODS * period_ns, _HOLE_NS)
    found = []
    for start, end in windows:
        inside = times_ns[(times_ns >= start) & (times_ns <= end)]
        edges = np.concatenate([[start], inside, [end]])
        found += [(int(edges[i]), int(edges[i + 1])) for i in np.flatnonzero(np.diff(edges) > limit)]
    return found


def telemetry_gaps(telemetry: Telemetry, windows: Sequence[Window]) -> dict[str, float]:
    """By source: for how many seconds of the windows it was not read, though it was read at other times of the run."""
    return {
        source: round(length_s(missing), 3)
        for source, reads in sorted(telemetry.reads.items())
        if (missing := holes(reads.mean(axis=1).astype(np.int64), _period_ns(reads[:, 0]), windows))
    }


def merged(intervals: Sequence[Intervals]) -> Intervals:
    """All intervals together, in order, those that touch as one."""
    rows = np.concatenate([np.zeros((0, 2), np.int64), *intervals])
    if len(rows) == 0:
        return rows
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    ends = np.maximum.accumulate(rows[:, 1])
    begins = np.flatnonzero(np.concatenate([[True], rows[1:, 0] > ends[:-1]]))
    return np.stack([rows[begins, 0], ends[np.append(begins[1:] - 1, len(rows) - 1)]], axis=1)


def overlaps(intervals: Intervals, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the spans from `starts` to `ends` touch one of the merged intervals."""
    if len(intervals) == 0:
        return np.zeros(len(starts), np.bool_)
    place = np.searchsorted(intervals[:, 1], starts)
    inside = place < len(intervals)
    begins = intervals[np.minimum(place, len(intervals) - 1), 0]
    return np.asarray(inside & (begins <= ends))


def _source(block: TelemetryBlock) -> str:
    return next((each.channel.removeprefix(_READ) for each in block.columns if each.channel.startswith(_READ)), "")


def _read(times_ns: NDArray[np.int64], values: Sequence[int | None]) -> _Part:
    """The samples that could be read."""
    if None not in values:
        return times_ns, np.array(values, dtype=np.int64)
    kept = [place for place, value in enumerate(values) if value is not None]
    return times_ns[kept], np.array([values[place] for place in kept], dtype=np.int64)


def _series(name: str, unit: str, parts: Sequence[_Part], source: str, channel: SensorChannel | None) -> Series:
    times, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(times, kind="stable")
    made = Series(name, unit, times[order], values[order], source, _period_ns(times[order]))
    if channel is None:
        return made
    return replace(made, scope=channel.scope, method=channel.method, window_ns=channel.window_ns or 0)


def _period_ns(times_ns: NDArray[np.int64]) -> int:
    return int(np.median(np.diff(times_ns))) if len(times_ns) >= _FEWEST_FOR_PERIOD else 0


def _reads(series: Series) -> Intervals:
    return np.stack([series.times_ns - series.values // 2, series.times_ns + series.values // 2], axis=1)


def _filled(series: Series, times_ns: NDArray[np.int64]) -> NDArray[Any]:
    """The newest value at each time; far below everything before the first."""
    places = np.searchsorted(series.times_ns, times_ns, side="right") - 1
    lowest = np.iinfo(np.int64).min
    return np.where(places >= 0, series.values[np.maximum(places, 0)], lowest)
