"""What psutil can read on any Linux: temperatures, processor clocks and load, memory."""

from __future__ import annotations

import re
from collections.abc import Mapping

import psutil

from backbench.domain.device import SensorChannel

# What a driver may raise while its hardware sleeps or goes away.
_UNREADABLE = (OSError, TypeError, ValueError, NotImplementedError, AttributeError)


class HostTemperatures:
    """Every temperature that the kernel exposes, in thousandths of a degree Celsius."""

    name = "temperatures"

    def channels(self) -> tuple[SensorChannel, ...]:
        """One channel a reading; none on a machine that exposes no temperature."""
        return tuple(
            SensorChannel(name, "mC", "psutil", scope=name.partition(".")[2]) for name, value in self.read().items()
        )

    def read(self) -> Mapping[str, int | None]:
        """Readings by channel; a driver's "unreadable" (below -100 C) is None."""
        try:
            chips = psutil.sensors_temperatures()
        except _UNREADABLE:
            return {}
        values: dict[str, int | None] = {}
        for chip, readings in chips.items():
            for place, reading in enumerate(readings):
                name = f"temperature.{_word(chip)}.{_word(reading.label) or place}"
                plausible = reading.current is not None and -100 < reading.current < 300
                values[name] = round(reading.current * 1000) if plausible else None
        return values


class HostClocks:
    """Current clock of every processor, and how busy they were since the last read."""

    name = "clocks"

    def __init__(self) -> None:
        psutil.cpu_percent()  # the first call only starts the interval

    def channels(self) -> tuple[SensorChannel, ...]:
        """One channel a processor whose clock is exposed, and the busy share."""
        clocks = tuple(
            SensorChannel(name, "Hz", "psutil", scope=name.partition(".")[2]) for name in _processor_clocks()
        )
        return (*clocks, SensorChannel("busy.cpu", "permille", "psutil", scope="all processors", method="average"))

    def read(self) -> Mapping[str, int | None]:
        """Clocks in Hz, the busy share in thousandths."""
        return {**_processor_clocks(), "busy.cpu": round(psutil.cpu_percent() * 10)}


class HostMemory:
    """The whole system's memory in bytes."""

    name = "memory"

    def channels(self) -> tuple[SensorChannel, ...]:
        """Memory that programs could still get, and swap in use."""
        return (
            SensorChannel("memory.available", "B", "psutil", scope="system"),
            SensorChannel("memory.swap_used", "B", "psutil", scope="system"),
        )

    def read(self) -> Mapping[str, int | None]:
        """Both, or None for one that cannot be read."""
        try:
            available = psutil.virtual_memory().available
        except _UNREADABLE:
            available = None
        try:
            swap = psutil.swap_memory().used
        except (*_UNREADABLE, RuntimeWarning):
            swap = None
        return {"memory.available": available, "memory.swap_used": swap}


def _processor_clocks() -> dict[str, int | None]:
    try:
        clocks = psutil.cpu_freq(percpu=True) or []
    except _UNREADABLE:
        return {}
    # psutil gives MHz; 0 is what it makes of a file that it could not read.
    return {f"frequency.cpu{place}": round(clock.current * 1e6) or None for place, clock in enumerate(clocks)}


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
