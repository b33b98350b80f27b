"""Whether a device held its clocks back: a verdict of each witness and one of all, yes, no, or not seen.

Three kinds of witness speak: a state that is live now, a counter or a latched bit that only grows, and the clock that
was delivered against the one that was asked for. Without one that would see heat there is no verdict: a supply that
was fine says nothing of the temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.latency import Columns
from backbench.controller.analysis.telemetry import Intervals, Series, Telemetry, Window, merged, overlaps

_LIVE = tuple(f"throttle.{reason}." for reason in ("thermal", "power", "undervoltage", "softlimit", "frequency"))
_EVENTS, _LATCHED = "throttle.events.", "throttle.latched."
_DELIVERED = "cpu.clock_delivered."
_ADVISORY = "throttle.advisory.hot_surface"
_HEAT = ("thermal", "softlimit", "frequency", "package", "clock")
"""Reasons that a device too hot would show."""
_DELIVERED_SHARE = 0.9
"""A delivered clock below this share of the requested one was held back."""
_COVERAGE = 0.5
"""The share of a window that a witness has to speak of before its silence is a no; a gap in it is told by itself."""
_NONE = np.zeros((0, 2), np.int64)


@dataclass(frozen=True, slots=True)
class Witness:
    """One channel's word: `verdict` None where it could not tell, `held` the times at which the clocks were held back.

    `known` are the times that it speaks of. Both are as wide as the witness is inexact.
    """

    name: str
    kind: str
    reason: str
    verdict: bool | None
    held: Intervals
    known: Intervals
    half_width_ns: int
    events: int | None = None

    @property
    def sees_heat(self) -> bool:
        """Whether it would have noticed a device that is too hot."""
        return self.reason in _HEAT


@dataclass(frozen=True, slots=True)
class Throttling:
    """The verdict on the timed windows. `onset_ns` is when it began: the first, the latest and the likeliest time."""

    throttled: bool | None
    witnesses: tuple[Witness, ...]
    held: Intervals
    known: Intervals
    onset_ns: tuple[int, int, int] | None
    hot_surface: bool | None

    def live(self) -> Intervals:
        """The times at which a live state of heat was on; a cooling device's caps on clocks belong to it."""
        return merged([each.held for each in self.witnesses if each.kind == "live" and each.sees_heat])


def judge_throttling(telemetry: Telemetry, windows: Sequence[Window]) -> Throttling:
    """What the witnesses say of the windows."""
    found = tuple(witness for witness in _witnesses(telemetry, windows) if len(witness.known))
    spoken = [each for each in found if each.verdict is not None]
    held = merged([each.held for each in found])
    throttled: bool | None = None
    if any(each.verdict for each in spoken):
        throttled = True
    elif any(each.sees_heat for each in spoken):
        throttled = False
    known = merged([each.known for each in found if each.sees_heat and each.verdict is not None])
    return Throttling(
        throttled, found, held, known, _onset(found, windows) if throttled else None, _hot_surface(telemetry, windows)
    )


def throttled_tags(frames: Columns, throttling: Throttling) -> np.ma.MaskedArray[Any, np.dtype[np.int64]]:
    """For every frame 1 where it may have been held back, 0 where a witness saw that it was not, else masked."""
    due, done = frames["due_ns"], frames["done_ns"]
    starts = np.where(np.ma.getmaskarray(frames["dequeued_ns"]), due.filled(0), frames["dequeued_ns"].filled(0))
    ends = np.where(np.ma.getmaskarray(done), starts, done.filled(0))
    held = overlaps(throttling.held, starts, ends)
    known = overlaps(throttling.known, starts, ends)
    return np.ma.MaskedArray(held.astype(np.int64), mask=~(held | known))


def throttling_document(throttling: Throttling, windows: Sequence[Window]) -> dict[str, Any]:
    """The parts of `thermal` that speak of it; times in seconds since the first window began."""
    begun = windows[0][0] if windows else 0
    onset = throttling.onset_ns
    return {
        "throttled": throttling.throttled,
        "time_to_throttle_s": None
        if onset is None
        else dict(zip(("low", "high", "value"), (max(t - begun, 0) / 1e9 for t in onset), strict=True)),
        "witnesses": [
            {
                "name": each.name,
                "kind": each.kind,
                "reason": each.reason,
                "throttled": each.verdict,
                "events": each.events,
                "half_width_s": each.half_width_ns / 1e9,
            }
            for each in throttling.witnesses
        ],
        "hot_surface": throttling.hot_surface,
    }


def _witnesses(telemetry: Telemetry, windows: Sequence[Window]) -> list[Witness]:
    live = [_live(series, windows) for series in telemetry.named(*_LIVE)]
    counters = [_counter(series, windows) for series in telemetry.named(_EVENTS)]
    latched = [_latched(series, windows) for series in telemetry.named(_LATCHED)]
    clocks = [_clock(series, telemetry, windows) for series in telemetry.named(_DELIVERED)]
    return [*live, *counters, *latched, *(clock for clock in clocks if clock is not None)]


def _live(series: Series, windows: Sequence[Window]) -> Witness:
    width = series.half_width_ns
    held = _around(series.times_ns[series.values != 0], width)
    known = _around(series.times_ns, max(width, series.period_ns))
    reason = series.name.split(".")[1]
    return Witness(series.name, "live", reason, _verdict(held, known, windows), held, known, width)


def _counter(series: Series, windows: Sequence[Window]) -> Witness:
    steps = counter_steps(series)
    held = _between(series, steps > 0)
    known = _span(series)
    counted = steps[overlaps(merged([_windows(windows)]), *_between(series, steps >= 0).T)]
    verdict = _verdict(held, known, windows)
    reason = series.name.removeprefix(_EVENTS)
    return Witness(
        series.name, "counter", reason, verdict, held, known, series.half_width_ns, int(counted.sum()) if windows else 0
    )


def _latched(series: Series, windows: Sequence[Window]) -> Witness:
    """A bit that was set before the run proves nothing."""
    held, known = _between(series, np.diff(series.values) > 0), _span(series)
    verdict = _verdict(held, known, windows)
    before = series.at(windows[0][0]) if windows else None
    if not verdict and (series.values[0] if before is None else before):
        verdict = None
    reason = series.name.split(".")[2]
    return Witness(series.name, "latched", reason, verdict, held, known, series.half_width_ns)


def _clock(delivered: Series, telemetry: Telemetry, windows: Sequence[Window]) -> Witness | None:
    """Below the requested clock in two samples that follow each other; one may be a clock on its way."""
    name = delivered.name.removeprefix(_DELIVERED)
    asked = telemetry.series.get(f"cpu.clock.{'policy0' if name == 'arm' else name}")
    if asked is None:
        return None
    width = max(delivered.half_width_ns, asked.period_ns)
    times = delivered.times_ns
    lowest = np.array([_lowest(asked, int(time), width) for time in times])
    low = (lowest > 0) & (delivered.values < _DELIVERED_SHARE * lowest)
    beside = np.zeros_like(low)
    beside[1:] |= low[:-1]
    beside[:-1] |= low[1:]
    held = _around(times[low & beside], delivered.half_width_ns)
    known = _around(times[lowest > 0], max(delivered.half_width_ns, delivered.period_ns))
    return Witness(
        delivered.name, "clock", "clock", _verdict(held, known, windows), held, known, delivered.half_width_ns
    )


def counter_steps(series: Series) -> NDArray[np.int64]:
    """What a counter grew by from each sample to the next; one that starts anew has grown by what it shows."""
    steps = np.diff(series.values)
    return np.where(steps < 0, series.values[1:], steps)


def _lowest(series: Series, time_ns: int, width_ns: int) -> int:
    around = series.within(time_ns - width_ns, time_ns + width_ns).values
    return int(around.min()) if len(around) else 0


def _around(times_ns: NDArray[np.int64], width_ns: int) -> Intervals:
    return merged([np.stack([times_ns - width_ns, times_ns + width_ns], axis=1)])


def _between(series: Series, which: NDArray[np.bool_]) -> Intervals:
    """From a sample to the next one, and before it by the channel's delay."""
    pairs = np.stack([series.times_ns[:-1] - series.latency_ns, series.times_ns[1:]], axis=1)
    return np.asarray(pairs[which])


def _span(series: Series) -> Intervals:
    if len(series.times_ns) < 2:  # a single reading of a counter tells nothing
        return _NONE
    return np.array([[series.times_ns[0], series.times_ns[-1]]], dtype=np.int64)


def _windows(windows: Sequence[Window]) -> Intervals:
    return np.array(windows, dtype=np.int64).reshape(-1, 2)


def _verdict(held: Intervals, known: Intervals, windows: Sequence[Window]) -> bool | None:
    starts, ends = _windows(windows).T
    if overlaps(merged([held]), starts, ends).any():
        return True
    known = merged([known])
    return False if len(starts) and all(_covered(known, *each) for each in zip(starts, ends, strict=True)) else None


def _covered(known: Intervals, start_ns: int, end_ns: int) -> bool:
    """Whether most of a window is spoken of: a witness that looked once says nothing of the rest."""
    seen = np.minimum(known[:, 1], end_ns) - np.maximum(known[:, 0], start_ns)
    return bool(seen[seen > 0].sum() >= _COVERAGE * (end_ns - start_ns))


def _onset(witnesses: Sequence[Witness], windows: Sequence[Window]) -> tuple[int, int, int] | None:
    """The earliest of the witnesses' first times within the windows."""
    spans = _windows(windows)
    found = []
    for witness in witnesses:
        if not witness.verdict:
            continue
        first = merged([witness.held])
        first = first[overlaps(merged([spans]), *first.T)][0]
        exact = witness.kind in ("live", "clock")
        low = int(first[0])
        high = low + 2 * witness.half_width_ns if exact else int(first[1])
        found.append((low, high, (low + high) // 2))
    return min(found, key=lambda each: each[2], default=None)


def _hot_surface(telemetry: Telemetry, windows: Sequence[Window]) -> bool | None:
    series = telemetry.series.get(_ADVISORY)
    return None if series is None else _live(series, windows).verdict
