"""Energy between the first frame's arrival and the last one's end, from power or from counters of energy.

The interval says how far the true value may be off by the way it was read: power between two samples, a meter that
shows a mean of the past, the edges of the window, and a unit's rounding. Nothing is taken away for the idle device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.telemetry import Series, Telemetry, Window, holes, length_s

_TOTAL = "power.total"
_COUNTER = "energy."
_CARD = "power.rail.gpu"
"""Of a card whose driver has no counter."""
_JOULES_OF_MW_NS = 1e-12
_MOST_MISSING = 0.1
"""The share of the time that may be without a sample."""
_WRAP = re.compile(r"wraps at (\d+) uJ")
_FAR = 10.0
_SCOPES = {"gpu": "gpu", "psys": "platform"}


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules over the windows with their interval; what `scope` physically covers, and how it was read."""

    joules: float
    low: float
    high: float
    seconds: float
    peak_w: float | None
    scope: str
    method: str
    window_s: float
    channels: tuple[str, ...]

    def per_frame(self, frame_count: int) -> dict[str, Any] | None:
        """`energy_j_per_frame` of the document; None without a frame."""
        if frame_count == 0:
            return None
        return {
            "value": self.joules / frame_count,
            "low": self.low / frame_count,
            "high": self.high / frame_count,
            **self._described(),
            "total_j": self.joules,
            "idle_subtracted": False,
        }

    def power(self) -> dict[str, Any]:
        """`power_w` of the document."""
        return {
            "mean": self.joules / self.seconds,
            "low": self.low / self.seconds,
            "high": self.high / self.seconds,
            "max": self.peak_w,
            **self._described(),
        }

    def _described(self) -> dict[str, Any]:
        named = ("scope", "method", "window_s")
        return {**{name: getattr(self, name) for name in named}, "source": "+".join(self.channels)}


def energy_of(telemetry: Telemetry, windows: Sequence[Window]) -> Energy | str:
    """The energy of the windows; else why there is none, in one line."""
    if length_s(windows) <= 0:
        return "no frame was timed"
    if (power := telemetry.series.get(_TOTAL)) is not None:
        return _of_power(power, windows)
    if counters := _counters(telemetry):
        return _of_counters(counters, windows)
    if (card := telemetry.series.get(_CARD)) is not None:
        return _of_power(card, windows)
    return "nothing that measures power was read"


def _of_power(power: Series, windows: Sequence[Window]) -> Energy | str:
    missing = length_s(holes(power.times_ns, power.period_ns, windows))
    if missing > _MOST_MISSING * length_s(windows):
        return f"power was not read for {missing:.1f} of {length_s(windows):.1f} s"
    inside = [part for part in (_around(power, window) for window in windows) if part is not None]
    if len(inside) < len(windows):
        return "power was not read near the timed frames"
    parts = [_trapezoid(power, window) for window in windows]
    value, low, high = (float(sum(part[place] for part in parts)) for place in range(3))
    return Energy(
        value,
        max(low, 0.0),
        high,
        length_s(windows),
        max(float(part.max()) for part in inside) / 1e3,
        power.scope or "unknown",
        power.method or "unknown",
        power.window_ns / 1e9,
        (power.name,),
    )


def _around(power: Series, window: Window) -> NDArray[np.int64] | None:
    """Values within a window and the nearest on both sides, at most two periods away; None where there is none."""
    start, end = window
    reach = max(2 * power.period_ns, 1)
    near = power.within(start - reach, end + reach).values
    within = power.within(start, end).values
    return within if len(within) else near if len(near) else None


def _trapezoid(power: Series, window: Window) -> tuple[float, float, float]:
    """Value, low and high in joules."""
    start, end = window
    times, values = power.times_ns, power.values.astype(np.float64)
    inside = (times > start) & (times < end)
    nodes = np.concatenate([[start], times[inside], [end]]).astype(np.float64)
    at_nodes = np.interp(nodes, times.astype(np.float64), values)
    steps = np.diff(nodes)
    left, right = at_nodes[:-1], at_nodes[1:]
    spread = float(at_nodes.max() - at_nodes.min())
    outside = max(int(times[0]) - start, 0) + max(end - int(times[-1]), 0)
    wide = float(values.max() - values.min())
    slack = spread * power.window_ns + wide * outside + 0.5 * (end - start)  # half a unit, as sent
    figures = (
        float(np.sum(steps * (left + right)) / 2),
        float(np.sum(steps * np.minimum(left, right))) - slack,
        float(np.sum(steps * np.maximum(left, right))) + slack,
    )
    value, low, high = (figure * _JOULES_OF_MW_NS for figure in figures)
    return value, low, high


def _counters(telemetry: Telemetry) -> list[Series]:
    """The whole platform's counter, or those of all packages and cards; parts of a package are within it."""
    found = {series.name.removeprefix(_COUNTER): series for series in telemetry.named(_COUNTER)}
    for prefixes in (("psys",), ("package", "gpu")):
        if chosen := [series for name, series in found.items() if name.startswith(prefixes) and "." not in name]:
            return chosen
    return []


def _of_counters(counters: Sequence[Series], windows: Sequence[Window]) -> Energy | str:
    parts = [_counted(counter, window) for counter in counters for window in windows]
    told = [part for part in parts if part is not None]
    if len(told) < len(parts):
        return "the counter of energy was not read on both sides of the timed frames"
    value, low, high = (float(sum(part[place] for part in told)) for place in range(3))
    scopes = sorted({_scope(counter) for counter in counters})
    names = tuple(counter.name for counter in counters)
    return Energy(value, low, high, length_s(windows), None, "+".join(scopes), "measured", 0.0, names)


def _scope(counter: Series) -> str:
    domain = counter.name.removeprefix(_COUNTER)
    stated = counter.scope.partition(",")[0]
    return stated or next((scope for start, scope in _SCOPES.items() if domain.startswith(start)), "package")


def _counted(counter: Series, window: Window) -> tuple[float, float, float] | None:
    """Value, low and high in joules; None where the window is not between two samples."""
    times = counter.times_ns
    first, last = (int(np.searchsorted(times, edge, side="right")) - 1 for edge in window)
    after = int(np.searchsorted(times, window[1]))
    if first < 0 or after >= len(times):
        return None
    total, guessed = _unwrapped(counter)
    value = float(np.diff(np.interp(window, times.astype(np.float64), total))[0])
    inner = min(first + (times[first] < window[0]), last)
    slack = float(guessed[first:after].sum()) + 1.0  # a unit of the counter
    low, high = float(total[last] - total[inner]) - slack, float(total[after] - total[first]) + slack
    return value / 1e6, max(low, 0.0) / 1e6, high / 1e6


def _unwrapped(counter: Series) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of all steps, and how far each is a guess.

    A counter that fell wrapped at the number that its scope states; without one, or where that leaves a step that is
    far from the others, it began anew, and the step is taken as the others' usual rate.
    """
    steps = np.diff(counter.values).astype(np.float64)
    lengths = np.diff(counter.times_ns).astype(np.float64)
    fell = steps < 0
    rate = float(np.median((steps / np.maximum(lengths, 1))[~fell])) if (~fell).any() else 0.0
    stated = _WRAP.search(counter.scope)
    undone = steps + (float(stated[1]) if stated else 0.0)
    usual = rate * lengths
    wrapped = fell & (undone >= 0) & (undone <= _FAR * usual)
    guesses = np.where(fell & ~wrapped, usual, 0.0)
    taken = np.where(wrapped, undone, np.where(fell, usual, steps))
    return np.concatenate([[0.0], np.cumsum(taken)]), guesses
