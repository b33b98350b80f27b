"""Telemetry as columns on the frames' own clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNITS = (
    "mC", "Hz", "mW", "mV", "mA", "uJ", "B", "permille", "count", "flag", "rpm", "us", "ns", "bits", "id",
)  # fmt: skip
"""Units of channels; values are integers in them. "bits" is a word of flags, "id" a number that names a mode."""
WORKER_MEMORY = "proc.anonymous"
"""Anonymous resident memory of the workers, in which a leak shows."""
_JUNCTION = "temp.tj"
_ELSEWHERE = ("temp.nvme", "temp.drivetemp", "temp.iwlwifi", "temp.ath1", "temp.mt7", "temp.rp1_adc", "temp.battery")


@dataclass(frozen=True, slots=True)
class TelemetryColumn:
    """One channel's values, None where it could not be read."""

    channel: str
    unit: str
    values: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class TelemetryBlock:
    """A few samples of every channel of one source; each column is as long as `time_ns` (CLOCK_MONOTONIC)."""

    time_ns: tuple[int, ...]
    columns: tuple[TelemetryColumn, ...]


def hottest(values: Mapping[str, int | None]) -> int | None:
    """The temperature that throttling goes by, in mC: of the junction where it is read, else the highest; or None."""
    if (junction := values.get(_JUNCTION)) is not None:
        return junction
    return max((value for name, value in values.items() if is_of_chip(name) and value is not None), default=None)


def is_of_chip(name: str) -> bool:
    """Whether a channel is a temperature that the processors' clocks may hang on: not that of a disk or a radio."""
    return name.startswith("temp.") and not name.startswith(_ELSEWHERE)
