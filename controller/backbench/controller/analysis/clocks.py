"""Clocks of a run: how far they moved, whether they were pinned, and whether somebody changed what they may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backbench.controller.analysis.telemetry import Intervals, Series, Telemetry, Window, overlaps

_LIMITS = ("cpu.clock_max.", "cpu.clock_min.", "gpu.clock_max", "gpu.clock_min")
_MODES = ("mode.power", "mode.clocks_pinned")
_CLOCKS = ("cpu.clock.", "cpu.clock_delivered.", "gpu.clock", "emc.clock")


def clocks_document(telemetry: Telemetry, windows: Sequence[Window], held_by_heat: Intervals) -> dict[str, Any] | None:
    """{clocks, pinned, policy_changes}; None where no clock was read.

    `clocks` are {start, end, min, max} in MHz by channel, over the windows. `pinned` says whether lowest and highest
    clock were the same all the time, None where that was not read. A limit that a cooling device lowers is throttling
    and no change of policy: `held_by_heat` are the times of that.
    """
    clocks = {
        series.name: row
        for series in telemetry.named(*_CLOCKS)
        if not series.name.startswith(_LIMITS) and (row := _row(series, windows)) is not None
    }
    pinned = telemetry.series.get("mode.clocks_pinned")
    changes = _changes(telemetry, windows, held_by_heat)
    if not clocks and not changes and pinned is None:
        return None
    return {
        "clocks": clocks,
        "pinned": None if pinned is None else _always(pinned, windows, held_by_heat),
        "policy_changes": changes,
    }


def clock_range_ppm(telemetry: Telemetry, windows: Sequence[Window]) -> int | None:
    """How far a processor's clock moved at most, in millionths of its highest; None where none was read."""
    series = telemetry.named("cpu.clock_delivered.") or telemetry.named("cpu.clock.")
    rows = [row for each in series if (row := _row(each, windows)) is not None and row["max"]]
    return max((round((row["max"] - row["min"]) / row["max"] * 1e6) for row in rows), default=None)


def _row(series: Series, windows: Sequence[Window]) -> dict[str, float] | None:
    values = _seen(series, windows)
    if len(values) == 0:
        return None
    megahertz = values / 1e6
    return {
        "start": float(megahertz[0]),
        "end": float(megahertz[-1]),
        "min": float(megahertz.min()),
        "max": float(megahertz.max()),
    }


def _seen(series: Series, windows: Sequence[Window]) -> Any:
    """The values within the windows, or the newest before one that is shorter than a period."""
    parts = [series.within(*window).values for window in windows]
    joined = np.concatenate([np.zeros(0, np.int64), *parts])
    if len(joined) or not windows:
        return joined
    before = series.at(windows[0][1])
    return joined if before is None else np.array([before], np.int64)


def _always(pinned: Series, windows: Sequence[Window], held_by_heat: Intervals) -> bool | None:
    """Whether they were, but for the times at which heat capped them; None where that was not read."""
    free = ~overlaps(held_by_heat, pinned.times_ns, pinned.times_ns)
    if free.any():
        pinned = replace(pinned, times_ns=pinned.times_ns[free], values=pinned.values[free])
    values = _seen(pinned, windows)
    return bool(np.all(values != 0)) if len(values) else None


def _changes(telemetry: Telemetry, windows: Sequence[Window], held_by_heat: Intervals) -> list[dict[str, Any]]:
    """The first departure of each limit or mode from what it was when the windows began."""
    if not windows:
        return []
    start = windows[0][0]
    found = []
    for series in telemetry.named(*_LIMITS, *_MODES):
        parts = [series.within(*window) for window in windows]  # between launches they may be put back
        times = np.concatenate([part.times_ns for part in parts])
        values = np.concatenate([part.values for part in parts])
        if len(values) == 0:
            continue
        before = series.at(start)
        first = int(values[0]) if before is None else before
        differs = values != first
        if series.name != "mode.power":  # a cap by heat also makes pinned clocks look as if they were not
            differs &= ~overlaps(held_by_heat, times, times)
        if differs.any():
            place = int(np.argmax(differs))
            at_s = round((int(times[place]) - start) / 1e9, 3)
            found.append({"channel": series.name, "from": first, "to": int(values[place]), "at_s": at_s})
    return found
