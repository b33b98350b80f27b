"""What the device's sensors say of a run: heat, clocks, power, spikes, and which frames were of throttled times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backbench.controller.analysis.clocks import clock_range_ppm, clocks_document
from backbench.controller.analysis.curve import heating, slices, sustained
from backbench.controller.analysis.energy import Energy, energy_of
from backbench.controller.analysis.latency import Columns, completed, sequences, timed, values
from backbench.controller.analysis.spikes import spikes_document
from backbench.controller.analysis.telemetry import (
    Telemetry,
    Window,
    telemetry_gaps,
    telemetry_series,
    timed_windows,
)
from backbench.controller.analysis.throttle import Throttling, judge_throttling, throttled_tags, throttling_document
from backbench.domain.device import Device
from backbench.domain.event import CoolGate
from backbench.domain.run import RunSpec
from backbench.domain.telemetry import TelemetryBlock


@dataclass(frozen=True, slots=True)
class Observed:
    """The parts of a document that come from telemetry; None for what was not read."""

    thermal: Mapping[str, Any] | None
    clocks: Mapping[str, Any] | None
    energy: Mapping[str, Any] | None
    power: Mapping[str, Any] | None
    energy_missing: str | None
    spikes: Mapping[str, Any] | None
    curves: Mapping[int, Mapping[str, Any]]
    gaps: Mapping[str, float]
    clock_range_ppm: int | None

    def judged(self) -> dict[str, dict[str, float] | None]:
        """The values that budgets are about."""
        energy, power, thermal = self.energy, self.power, self.thermal or {}
        hottest = thermal.get("hottest_c")
        return {
            "energy": None if energy is None else {"value": energy["value"], "high": energy["high"]},
            "power": None if power is None else {"value": power["mean"], "high": power["high"]},
            "temp": None if hottest is None else {"value": hottest["max"], "high": None},
        }


def observe(
    spec: RunSpec, device: Device | None, frames: Columns, telemetry: Sequence[TelemetryBlock], *, curves: bool = False
) -> Observed:
    """Everything that telemetry says of these frames; `curves` as well slice by slice."""
    read = telemetry_series(telemetry, device.sensors if device else ())
    windows = timed_windows(frames)
    throttling = judge_throttling(read, windows)
    clocks = clocks_document(read, windows, throttling.live())
    energy = energy_of(read, windows)
    count = int(np.sum(timed(frames) & completed(frames)))
    told = energy if isinstance(energy, Energy) else None
    return Observed(
        thermal=_thermal(read, windows, frames, throttling),
        clocks=clocks,
        energy=told.per_frame(count) if told else None,
        power=told.power() if told else None,
        energy_missing=None if told else _why_no_energy(str(energy), spec, device),
        spikes=spikes_document(frames, read, throttling, clocks["policy_changes"] if clocks else ()),
        curves=_curves(frames, read, throttling) if curves else {},
        gaps=telemetry_gaps(read, windows) if spec.telemetry_rate_hz else {},
        clock_range_ppm=clock_range_ppm(read, windows),
    )


def tags_of(
    frames: Columns, telemetry: Sequence[TelemetryBlock], device: Device | None
) -> np.ma.MaskedArray[Any, np.dtype[np.int64]]:
    """The column `throttled` of `frames.parquet`."""
    read = telemetry_series(telemetry, device.sensors if device else ())
    return throttled_tags(frames, judge_throttling(read, timed_windows(frames)))


def gate_document(gate: CoolGate | None) -> dict[str, Any] | None:
    """`cool_gate`: how the wait for a cool device ended; None without one."""
    if gate is None:
        return None
    return {
        "limit_c": gate.limit_mc / 1e3,
        "start_c": None if gate.start_mc is None else gate.start_mc / 1e3,
        "end_c": None if gate.end_mc is None else gate.end_mc / 1e3,
        "waited_s": gate.waited_ns / 1e9,
        "cool": gate.cool,
    }


def _thermal(
    telemetry: Telemetry, windows: Sequence[Window], frames: Columns, throttling: Throttling
) -> dict[str, Any] | None:
    """Temperatures in degrees Celsius over the whole run; the verdict on its timed windows."""
    zones = {
        zone.name: {
            "start": int(zone.values[0]) / 1e3,
            "end": int(zone.values[-1]) / 1e3,
            "max": int(zone.values.max()) / 1e3,
            "unit": "C",
        }
        for zone in telemetry.named("temp.")
    }
    if not zones and not throttling.witnesses:
        return None
    hottest = telemetry.hottest()
    span = (windows[0][0], windows[-1][1]) if windows else None
    tags = throttled_tags(frames, throttling)[timed(frames)]
    known = tags.compressed()
    return {
        "temperatures": zones,
        "hottest_c": None if hottest is None or span is None else _hottest(telemetry, span),
        **throttling_document(throttling, windows),
        "throttled_frames": int(known.sum()) if len(known) else None,
        "throttled_share": float(known.sum() / len(known)) if len(known) else None,
    }


def _hottest(telemetry: Telemetry, span: Window) -> dict[str, float | None] | None:
    found = heating(telemetry, *span)
    if found is None:
        return None
    return {
        "start": found["start_c"],
        "end": found["end_c"],
        "max": found["max_c"],
        "per_minute": found["c_per_minute"],
    }


def _curves(frames: Columns, telemetry: Telemetry, throttling: Throttling) -> dict[int, dict[str, Any]]:
    """By launch: slices, and its burst against its sustained pace."""
    found = {}
    for (launch, _), places in sequences(frames, timed(frames) & completed(frames)).items():
        begun, done = values(frames, "dequeued_ns", places), values(frames, "done_ns", places)
        if begun is None or done is None:
            continue
        found[launch] = {
            "slices": slices(done, done - begun, telemetry, throttling),
            "sustained": sustained(done, done - begun, throttling),
        }
    return found


def _why_no_energy(reason: str, spec: RunSpec, device: Device | None) -> str:
    """The reason, with what would bring power where the device says so."""
    if not spec.telemetry_rate_hz:
        return "telemetry was off"
    sources = device.sensor_sources if device else ()
    for source in sources:
        if source.name == "pmic" and source.state == "off" and source.name not in spec.extra_sources:
            return f"{reason}; add --sensor pmic, which reads this board's regulators"
    for source in sources:
        if source.state == "denied" and source.name in ("powercap", "hwmon"):
            return f"{reason}; {source.name}: {source.reason}"
    return reason
