"""Telemetry as it comes: a table that is redrawn, a line at a time, or one document at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backbench.controller.report.units import duration, reading
from backbench.controller.report.words import NONE, table_of
from backbench.domain.device import Device
from backbench.domain.telemetry import TelemetryBlock, hottest

_SECTIONS = (
    ("Temperature", ("temp.",)),
    ("Clocks", ("cpu.clock.", "cpu.clock_delivered.", "gpu.clock", "emc.clock", "mode.clocks_pinned")),
    ("Load", ("cpu.util", "gpu.util", "emc.util")),
    ("Power", ("power.", "energy.")),
    ("Memory", ("mem.", "proc.rss", "proc.gpu_mem")),
    ("Fan", ("fan.",)),
    ("Other", ("jtop.", "tegrastats.", "mode.power")),
)
_READ = "agent.read."
_EVENTS = "throttle.events."
_HEAT = ("thermal", "softlimit", "frequency")
"""Live states that a device too hot would show."""
_SILENT = ("throttle.latched.", "throttle.advisory.", "throttle.raw.", _EVENTS)


class Latest:
    """The newest value of every channel, and what counters of throttling grew by since the watch began."""

    def __init__(self, device: Device, name: str) -> None:
        self.device = device
        self.name = name
        self.values: dict[str, int | None] = {}
        self.units: dict[str, str] = {}
        self._first: dict[str, int] = {}

    def take(self, block: TelemetryBlock) -> None:
        """The newest sample of a block."""
        for column in block.columns:
            if not column.values:
                continue
            value = column.values[-1]
            self.values[column.channel], self.units[column.channel] = value, column.unit
            if column.channel.startswith(_EVENTS) and value is not None:
                self._first.setdefault(column.channel, value)

    def throttled(self) -> list[str] | None:
        """The live states that are on; None where none is read."""
        states = {
            name: value
            for name, value in self.values.items()
            if name.startswith("throttle.") and not name.startswith(_SILENT) and value is not None
        }
        on = [name.removeprefix("throttle.") for name, value in sorted(states.items()) if value]
        # A supply that is fine says nothing of the heat.
        return on if on or any(name.split(".")[1] in _HEAT for name in states) else None

    def events(self) -> dict[str, int]:
        """Counters that grew."""
        grown = {name: (self.values.get(name) or 0) - first for name, first in self._first.items()}
        return {name.removeprefix(_EVENTS): more for name, more in sorted(grown.items()) if more > 0}

    def reads(self) -> dict[str, int]:
        """By source: how long its last read took, in ns."""
        return {name.removeprefix(_READ): v for name, v in sorted(self.values.items()) if name.startswith(_READ) and v}


def live_table(latest: Latest) -> RenderableType:
    """Everything that is read now, in sections, the state of throttling first."""
    title = Text(latest.name, style="bold")
    if latest.device.simulated:
        title.append(f" (simulated: {latest.device.simulation or 'a recording'})", style="default")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("Throttling", _throttling(latest), "")
    for heading, prefixes in _SECTIONS:
        for place, (name, cell, scope) in enumerate(_section(latest, prefixes)):
            table.add_row("" if place else heading, name, cell, Text(scope, style="dim"))
    table.add_row("Cost", Text(_cost(latest)), "")
    return Group(title, table)


def live_line(latest: Latest) -> str:
    """The same in one line: the hottest zone, clocks, load, power, memory, throttling."""
    values = latest.values
    parts = [datetime.now().astimezone().strftime("%H:%M:%S")]
    if (heat := hottest(values)) is not None:
        parts.append(reading(heat, "mC"))
    clocks = [v for name, v in values.items() if name.startswith("cpu.clock.") and v is not None]
    if clocks:
        parts.append(f"cpu {reading(max(clocks), 'Hz')}")
    for name, words in (("cpu.util", "cpu"), ("gpu.clock", "gpu"), ("gpu.util", "gpu"), ("power.total", "power")):
        if values.get(name) is not None:
            parts.append(f"{words} {reading(values[name], latest.units[name])}")
    if values.get("mem.used") is not None:
        parts.append(f"memory {reading(values['mem.used'], 'B')}")
    return ", ".join([*parts, _throttling(latest).plain])


class Recording:
    """Everything that came, for `backbench.telemetry/1`."""

    def __init__(self) -> None:
        self._started_unix_ns = time.time_ns()
        self._samples: dict[str, dict[str, Any]] = {}

    def take(self, block: TelemetryBlock) -> None:
        """Every sample of a block."""
        for column in block.columns:
            kept = self._samples.setdefault(column.channel, {"unit": column.unit, "time_ns": [], "values": []})
            kept["time_ns"] += block.time_ns
            kept["values"] += column.values

    def document(self, device: Device, name: str) -> dict[str, Any]:
        """`backbench.telemetry/1`: times are nanoseconds on the device's CLOCK_MONOTONIC, values in their unit."""
        known = {channel.name: channel for channel in device.sensors}
        return {
            "schema": "backbench.telemetry/1",
            "device": {"name": name, "simulated": device.simulated, "simulation": device.simulation or None},
            "started_unix_ns": self._started_unix_ns,
            "channels": [
                {"name": channel, **_described(known.get(channel)), **samples}
                for channel, samples in sorted(self._samples.items())
            ],
        }


def _described(channel: Any) -> Mapping[str, Any]:
    if channel is None:
        return {"source": None, "scope": None, "method": None, "window_ns": None}
    return {
        "source": channel.source,
        "scope": channel.scope or None,
        "method": channel.method,
        "window_ns": channel.window_ns,
    }


def _section(latest: Latest, prefixes: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    scopes = {channel.name: channel.scope for channel in latest.device.sensors}
    for name in sorted(latest.values):
        if name.startswith(tuple(prefixes)):
            yield name, reading(latest.values[name], latest.units[name]), scopes.get(name, "")


def _throttling(latest: Latest) -> Text:
    now, events = latest.throttled(), latest.events()
    grown = "; ".join(f"{name} +{more}" for name, more in events.items())
    if now is None and not events:
        return Text("no witness" if not latest.values else "no witness of it is read")
    state = Text(f"throttled: {', '.join(now)}", "bold red") if now else Text("not throttled", "green")
    if now is None:
        state = Text("no live state is read")
    return state.append(f"; {grown}", "yellow") if grown else state


def _cost(latest: Latest) -> str:
    reads = ", ".join(f"{source} {duration(length)}" for source, length in latest.reads().items())
    share = latest.values.get("agent.cpu")
    whole = "" if share is None else f"; the sampler takes {reading(share, 'permille')} of a core"
    return (reads or NONE) + whole


def source_table(device: Device) -> RenderableType:
    """Every source of a device: whether it is read, how often, what it costs, else what is missing."""
    table = table_of("source", "state", "rate", "cost", "what is missing", left=2)
    table.columns[4].justify = "left"
    for source in device.sensor_sources:
        rate = f"{1e9 / source.period_ns:.3g} Hz" if source.period_ns else NONE
        cost = duration(source.read_ns) if source.read_ns else NONE
        table.add_row(source.name, source.state, rate, cost, source.reason)
    return table


def sensor_table(device: Device) -> RenderableType:
    """Every channel of the sources that are read: where it comes from, its unit, what it covers.

    What the agent says of itself is in the table of sources, and so is what is off.
    """
    off = tuple(f"{source.name}." for source in device.sensor_sources if source.state == "off")
    table = table_of("sensor", "unit", "from", "covers", "how", left=5)
    table.columns[0].no_wrap = True
    for sensor in device.sensors:
        if sensor.name.startswith(("agent.", *off)) or sensor.reason.startswith("off"):
            continue
        window = f" over {duration(sensor.window_ns)}" if sensor.window_ns else ""
        how = f"{sensor.method}{window}" if sensor.available else f"not readable: {sensor.reason}"
        table.add_row(sensor.name, sensor.unit, sensor.source, sensor.scope or NONE, how)
    return table


def identity_rows(device: Device) -> Iterator[tuple[str, str]]:
    """What a device is, and the conditions that it is in."""
    identity = device.identity
    if device.simulated:
        yield "simulated", f"{device.simulation or 'a recording'}: telemetry is replayed, frames are real"
    release = " ".join(each for each in (identity.platform_release, _jetpack(identity.jetpack)) if each)
    rows = (
        ("board", identity.board), ("module", identity.module), ("SoC", identity.soc), ("family", identity.family),
        ("CUDA", identity.cuda_architecture and f"compute capability {identity.cuda_architecture}"),
        ("release", release), ("firmware", identity.firmware), ("system", identity.os), ("kernel", identity.kernel),
    )  # fmt: skip
    yield from ((name, words) for name, words in rows if words)
    yield from ((name.replace("_", " "), value) for name, value in sorted(identity.conditions.items()))


def _jetpack(version: str) -> str:
    return f"(JetPack {version})" if version else ""
