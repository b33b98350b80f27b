"""What a sensor is: channels that it offers, and a read of all of them at once.

To add one, write a module with a class that satisfies `Sensor`, and add a line to `table.py`. What the hardware does
not have gets no channel; what cannot be read just now reads as None. Nothing ever reads as a made-up 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from backbench.domain.device import SensorChannel

UNITS = ("mC", "Hz", "mW", "mV", "mA", "B", "permille", "count", "flag", "rpm")
"""Units of channels; values are integers in them."""


class Sensor(Protocol):
    """One source, opened once and read at the telemetry rate."""

    name: str

    def channels(self) -> tuple[SensorChannel, ...]:
        """What this source offers on this machine; empty when there is no such hardware. Never raises."""

    def read(self) -> Mapping[str, int | None]:
        """The value of every channel now, by name; None for one that cannot be read. Never raises."""
