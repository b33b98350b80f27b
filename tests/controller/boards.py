"""Made-up frames and telemetry whose truth is known."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from backbench.controller.report.document import build
from backbench.controller.store import RunRecord
from backbench.controller.store.columns import frame_table, masked_columns
from backbench.domain.device import Device, DeviceIdentity, Limits, SensorChannel
from backbench.domain.event import CoolGate, LaunchReport, RunResult
from backbench.domain.frame import OUTCOME_NUMBERS, FrameBlock, FrameOutcome
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import LaunchPurpose, ModelRef, RunSpec, RunState
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn

SECOND = 10**9
DONE = OUTCOME_NUMBERS[FrameOutcome.COMPLETED]
_UNITS = {
    "temp": "mC", "power": "mW", "energy": "uJ", "gpu": "Hz", "cpu": "Hz", "throttle": "flag", "agent": "ns",
    "proc": "count", "cgroup": "us", "psi": "us", "mode": "flag",
}  # fmt: skip


def frames(seconds: float, fps: int = 100, service_ms: Callable[[float], float] = lambda _: 5.0) -> FrameBlock:
    """Back to back at a rate from 0 on; `service_ms` is told each frame's start in seconds."""
    due = tuple(round(row * SECOND / fps) for row in range(round(seconds * fps)))
    lengths = tuple(round(service_ms(start / SECOND) * 1e6) + row * 7919 % 997 for row, start in enumerate(due))
    return FrameBlock(
        launch=0, index=tuple(range(len(due))), due_ns=due, dequeued_ns=due,
        done_ns=tuple(start + length for start, length in zip(due, lengths, strict=True)),
        outcome=(DONE,) * len(due), tags=(0,) * len(due), input=(0,) * len(due),
    )  # fmt: skip


def columns(block: FrameBlock) -> dict[str, Any]:
    """As analysis takes them."""
    return masked_columns(frame_table([block]))


def read(
    source: str,
    seconds: float,
    rate_hz: float,
    read_ns: int = 100_000,
    start_s: float = -1.0,
    **channels: Callable[[float], int | None],
) -> TelemetryBlock:
    """One source's samples from a second before the frames on; each channel is told the time in seconds.

    Names have "__" for a dot.
    """
    times = np.arange(start_s, seconds + 1, 1 / rate_hz)
    made = [
        TelemetryColumn(_name(name), _UNITS[name.split("__")[0]], tuple(value(time) for time in times))
        for name, value in channels.items()
    ]
    cost = TelemetryColumn(f"agent.read.{source}", "ns", (read_ns,) * len(times))
    return TelemetryBlock(tuple(round(time * SECOND) for time in times), (*made, cost))


def constant(value: int | None) -> Callable[[float], int | None]:
    return lambda _: value


def after(moment_s: float, before: int, later: int) -> Callable[[float], int]:
    """A value that steps once."""
    return lambda time: later if time >= moment_s else before


def steps(*pairs: tuple[float, int]) -> Callable[[float], int]:
    """A value that steps several times: (from when, value), the first from ever."""
    return lambda time: [value for since, value in pairs if time >= since or since == pairs[0][0]][-1]


def codes(document: dict[str, Any]) -> list[str]:
    """Of the validity's reasons, but for percentiles that so few frames do not carry."""
    return [row["code"] for row in document["validity"]["reasons"] if row["code"] != "insufficient_frames"]


def _name(text: str) -> str:
    return text.replace("__", ".")


Blocks = Sequence[TelemetryBlock]


def document(
    block: FrameBlock,
    telemetry: Blocks,
    *,
    device: Device | None = None,
    budgets: tuple[str, ...] = (),
    gate: CoolGate | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A finished run's `backbench.run/1`."""
    asked = RunSpec(new_run_id(), ModelRef("resnet50", "a" * 64, "skeleton"), 224, 224, **spec)
    record = RunRecord(asked.run_id, "lab1", device, asked, RunState.DONE, budgets, 10**18)
    counters = {"major_fault_count": 0, "garbage_collection_count": 0, "suspend_ns": 0, "clock_step_ns": 0}
    timed = LaunchReport(0, LaunchPurpose.TIMED, facts={"threads": "1"}, counters=counters)
    result = RunResult(RunState.DONE, cool_gate=gate)
    return build(record, result, [timed], columns(block), telemetry, {})


def a_device(sensors: tuple[SensorChannel, ...] = (), **changes: Any) -> Device:
    """A device whose other parts are empty but for the changes."""
    return Device("d" * 32, DeviceIdentity(), (), sensors, Limits(), "0.1.0", 5, 1, "i" * 32, **changes)


def printed(*renderables: Any, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    for each in renderables:
        console.print(each)
    return console.export_text()
