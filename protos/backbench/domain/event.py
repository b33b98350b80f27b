"""What happens in a run, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from backbench.domain.frame import FrameBlock
from backbench.domain.run import LaunchPurpose, RunFailure, RunState
from backbench.domain.telemetry import TelemetryBlock


@dataclass(frozen=True, slots=True)
class StateChange:
    """The run moved on."""

    state: RunState


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; not journalled. `total_count` is None when unknown.

    In stage "queued" `holder` is who uses the device meanwhile, by a lease or a run; empty for nobody.
    """

    stage: str
    launch: int = 0
    done_count: int = 0
    total_count: int | None = None
    queue_position: int = 0
    holder: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of log; `level` is "info", "warning" or "error"."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a cold start."""

    name: str
    duration_ns: int


@dataclass(frozen=True, slots=True)
class MemoryPhase:
    """Memory in a part of a worker's life: VmHWM reset at its start, VmRSS at its end; None where that is not told."""

    name: str
    peak_bytes: int | None
    resident_bytes: int | None
    figures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's share of a layers pass."""

    name: str
    operator: str
    provider: str
    mean_ns: int
    call_count: int


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How far one output is from its reference; the two numbers are None where they cannot be told."""

    name: str
    max_relative_error: float | None
    cosine: float | None
    finite: bool
    tolerance: float
    passed: bool
    frame_count: int
    made_by: str


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """What one worker process reported besides frames."""

    launch: int
    purpose: LaunchPurpose
    phases: tuple[Phase, ...] = ()
    memory: tuple[MemoryPhase, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    window_start_ns: int | None = None
    window_end_ns: int | None = None
    layers: tuple[Layer, ...] = ()
    output_checks: tuple[OutputCheck, ...] = ()
    stream: int = 0


@dataclass(frozen=True, slots=True)
class CoolGate:
    """How a wait for a cool device ended; a temperature that could not be read is None."""

    limit_mc: int
    start_mc: int | None
    end_mc: int | None
    waited_ns: int
    cool: bool


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of a run; the counts are of timed frames, with offered = completed + dropped + errored."""

    state: RunState
    failure: RunFailure | None = None
    offered_count: int = 0
    completed_count: int = 0
    dropped_count: int = 0
    errored_count: int = 0
    conditions_start: Mapping[str, str] = field(default_factory=dict)
    conditions_end: Mapping[str, str] = field(default_factory=dict)
    cool_gate: CoolGate | None = None
    clocks_set: Mapping[str, str] = field(default_factory=dict)


Happening = StateChange | Progress | FrameBlock | TelemetryBlock | LogLine | LaunchReport | RunResult


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened. `sequence` counts from 1 in the run's journal; None for progress."""

    sequence: int | None
    time_ns: int
    time_unix_ns: int
    event: Happening
