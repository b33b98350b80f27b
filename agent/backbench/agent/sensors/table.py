"""The sensors of this agent."""

from __future__ import annotations

from collections.abc import Callable

from backbench.agent.sensors.base import Sensor
from backbench.agent.sensors.host import HostClocks, HostMemory, HostTemperatures

SENSORS: dict[str, Callable[[], Sensor]] = {
    "temperatures": HostTemperatures,
    "clocks": HostClocks,
    "memory": HostMemory,
}


def open_sensors() -> tuple[Sensor, ...]:
    """Every sensor that offers something on this machine."""
    opened = (make() for make in SENSORS.values())
    return tuple(sensor for sensor in opened if sensor.channels())
