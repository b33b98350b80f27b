"""Reads every sensor at a stated rate and hands out the samples as blocks of columns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from backbench.agent.sensors.base import Sensor
from backbench.domain.device import SensorChannel
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn

MAX_RATE_HZ = 10.0
DEFAULT_RATE_HZ = 2.0


class Sampler:
    """Collects samples until `take` hands them over."""

    def __init__(self, sensors: Sequence[Sensor]) -> None:
        self._sensors = sensors
        self._units = {channel.name: channel.unit for sensor in sensors for channel in sensor.channels()}
        self._times: list[int] = []
        self._samples: list[Mapping[str, int | None]] = []

    def sample(self) -> None:
        """Read everything once, stamped on CLOCK_MONOTONIC in the middle of the read."""
        values: dict[str, int | None] = {}
        before = time.perf_counter_ns()
        for sensor in self._sensors:
            values.update(sensor.read())
        self._times.append((before + time.perf_counter_ns()) // 2)
        self._samples.append(values)

    def take(self) -> TelemetryBlock | None:
        """The samples since the last call; None when there are none."""
        if not self._times:
            return None
        columns = tuple(
            TelemetryColumn(name, unit, tuple(sample.get(name) for sample in self._samples))
            for name, unit in self._units.items()
        )
        block = TelemetryBlock(tuple(self._times), columns)
        self._times, self._samples = [], []
        return block


def measured_channels(sensors: Sequence[Sensor]) -> tuple[SensorChannel, ...]:
    """Every channel with what one read of its source costs."""
    found: list[SensorChannel] = []
    for sensor in sensors:
        start = time.perf_counter_ns()
        values = sensor.read()
        cost = time.perf_counter_ns() - start
        for channel in sensor.channels():
            readable = values.get(channel.name) is not None
            reason = "" if readable else "not readable just now"
            found.append(replace(channel, available=readable, reason=reason, read_ns=cost))
    return tuple(found)
