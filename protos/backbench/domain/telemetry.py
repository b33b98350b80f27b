"""Telemetry as columns on the frames' own clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TelemetryColumn:
    """One channel's values, None where it could not be read."""

    channel: str
    unit: str
    values: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class TelemetryBlock:
    """A few samples of every channel; each column is as long as `time_ns` (CLOCK_MONOTONIC)."""

    time_ns: tuple[int, ...]
    columns: tuple[TelemetryColumn, ...]
