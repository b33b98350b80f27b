"""What `backbench-agent sensors` says: every source and channel, as one document and for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backbench.agent.sampling.sampler import known
from backbench.agent.sampling.survey import Look
from backbench.domain.device import SensorChannel, SensorSource

_INDENT = "  "


def sensors_document(look: Look, simulation: str) -> dict[str, Any]:
    """The document `backbench.agent-sensors/1`; what could not be read is null."""
    return {
        "schema": "backbench.agent-sensors/1",
        "simulation": simulation or None,
        "sources": [_source(source, look) for source in look.survey.sources if source.name in look.channels],
    }


def _source(source: SensorSource, look: Look) -> dict[str, Any]:
    return {
        "name": source.name,
        "state": source.state,
        "reason": source.reason,
        "rate_hz": round(1e9 / source.period_ns, 3),
        "read_us": None if source.read_ns is None else round(source.read_ns / 1000, 1),
        "channels": [_channel(channel, look) for channel in look.channels[source.name]],
    }


def _channel(channel: SensorChannel, look: Look) -> dict[str, Any]:
    return {
        "name": channel.name,
        "value": known(look.values.get(channel.name)),
        "unit": channel.unit,
        "kind": channel.kind,
        "from": channel.source,
        "scope": channel.scope,
        "method": channel.method,
        "window_ms": round(channel.window_ns / 1e6, 1) if channel.window_ns else None,
        "reason": channel.reason,
    }


def sensors_text(document: dict[str, Any]) -> str:
    """The document for people: what is read first, then what is not and why."""
    lines = [f"simulated: {document['simulation']}", ""] if document["simulation"] else []
    sources = document["sources"]
    width = max((len(channel["name"]) for source in sources for channel in source["channels"]), default=0)
    for source in sources:
        if source["state"] == "read":
            cost = "" if source["read_us"] is None else f", {source['read_us'] / 1000:.2f} ms a read"
            lines.append(f"{source['name']}: up to {source['rate_hz']:g} times a second{cost}")
            lines += [_channel_line(channel, width) for channel in source["channels"]]
    others = [source for source in sources if source["state"] != "read"]
    name_width = max((len(source["name"]) for source in others), default=0)
    if others:
        lines += ["", "not read:"]
    lines += [f"{_INDENT}{source['name']:<{name_width}}  {source['state']}: {source['reason']}" for source in others]
    return "\n".join(lines)


def _channel_line(channel: dict[str, Any], width: int) -> str:
    value = "-" if channel["value"] is None else value_text(channel["value"], channel["unit"])
    window = f"over {channel['window_ms']:g} ms" if channel["window_ms"] else ""
    said = [channel["scope"], channel["method"], window, channel["reason"] if channel["value"] is None else ""]
    return f"{_INDENT}{channel['name']:<{width}}  {value:>12}  {', '.join(filter(None, said))}".rstrip()


def value_text(value: int, unit: str) -> str:
    """A value for people, in a unit that they use."""
    if (as_text := _TEXTS.get(unit)) is not None:
        return as_text(value)
    steps = _STEPS.get(unit)
    if steps is None:
        return f"{value} {unit}"
    factor, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    scaled = value / factor
    digits = 0 if factor == 1 or abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
    return f"{scaled:.{digits}f} {name}"


_TEXTS: dict[str, Callable[[int], str]] = {
    "mC": lambda value: f"{value / 1000:.1f} C",
    "permille": lambda value: f"{value / 10:.1f} %",
    "flag": lambda value: "yes" if value else "no",
    "bits": lambda value: f"{value:#x}",
    "count": str,
    "id": str,
}
_STEPS: dict[str, tuple[tuple[int, str], ...]] = {
    "Hz": ((10**9, "GHz"), (10**6, "MHz"), (1000, "kHz"), (1, "Hz")),
    "mW": ((1000, "W"), (1, "mW")),
    "mV": ((1000, "V"), (1, "mV")),
    "mA": ((1000, "A"), (1, "mA")),
    "uJ": ((10**9, "kJ"), (10**6, "J"), (1000, "mJ"), (1, "uJ")),
    "B": ((10**9, "GB"), (10**6, "MB"), (1000, "kB"), (1, "B")),
    "us": ((10**6, "s"), (1000, "ms"), (1, "us")),
    "ns": ((10**9, "s"), (10**6, "ms"), (1000, "us"), (1, "ns")),
}
"""From how many of the unit on it is said in which one."""
