"""What a run is asked to do, where it stands, and how it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from backbench.domain.preprocess import IMAGENET_DEFAULT, Preprocess

SECOND_NS = 10**9


class RunState(Enum):
    """Where a run stands."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen in this run."""
        return self in (RunState.DONE, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)


class FailureReason(Enum):
    """Why a run failed."""

    WORKER_CRASHED = "worker_crashed"
    WORKER_TIMED_OUT = "worker_timed_out"
    RUN_TIMED_OUT = "run_timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    INVALID_MODEL = "invalid_model"
    SHAPE_MISMATCH = "shape_mismatch"
    INVALID_INPUT = "invalid_input"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    ENGINE_BUILD_FAILED = "engine_build_failed"
    OUTPUT_MISMATCH = "output_mismatch"
    DISK_FULL = "disk_full"
    AGENT_BUG = "agent_bug"
    JOURNAL_DAMAGED = "journal_damaged"
    ILLEGAL_INSTRUCTION = "illegal_instruction"


class ScenarioName(Enum):
    """How frames arrive."""

    CLOSED_LOOP = "closed-loop"
    PACED = "paced"
    POISSON = "poisson"
    TRACE = "trace"
    OFFLINE = "offline"
    STREAMS = "streams"
    SOAK = "soak"
    IDLE_FIRE = "idle-fire"
    SWEEP = "sweep"


class QueuePolicy(Enum):
    """What happens to a frame that finds the worker busy and `queue_depth` frames waiting."""

    LATEST = "latest"
    DROP_NEWEST = "drop-newest"
    UNBOUNDED = "unbounded"


class Priority(Enum):
    """Who goes first."""

    INTERACTIVE = "interactive"
    NIGHTLY = "nightly"


class LaunchPurpose(Enum):
    """What a worker process was started for."""

    TIMED = "timed"
    MEMORY = "memory"
    LAYERS = "layers"
    BUILD = "build"


@dataclass(frozen=True, slots=True)
class ExternalData:
    """A file in which a model keeps weights: its path as the graph names it, and the artifact with its bytes."""

    location: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelRef:
    """What is executed: an artifact and where it came from ("skeleton", "export" or "file").

    `external` holds exactly the files that its graph names.
    """

    name: str
    sha256: str
    source: str
    precision: str = "as-model"
    reference_sha256: str = ""
    external: tuple[ExternalData, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """What executes it. `threads` None lets the agent choose, and say so.

    `precision` is what the engine is to compute in, where the backend chooses that; empty for as the model is.
    """

    name: str = "onnxruntime"
    threads: int | None = None
    spin: bool = True
    options: Mapping[str, str] = field(default_factory=dict)
    allow_fallback: bool = False
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """How frames arrive; what the scenario does not use is None.

    `rate_mhz` is arrivals a second times 1000; of a sweep the highest rate that is tried. `duration_ns` ends the timed
    window of a launch instead of `frame_count`. A frame that is not done `deadline_ns` after its arrival is a miss.
    """

    name: ScenarioName = ScenarioName.CLOSED_LOOP
    frame_count: int | None = 1000
    warmup_frame_count: int = 20
    duration_ns: int | None = None
    rate_mhz: int | None = None
    queue_policy: QueuePolicy | None = None
    queue_depth: int | None = None
    trace_sha256: str = ""
    streams: int | None = None
    idle_gap_ns: int | None = None
    seed: int = 0
    miss_ratio_ppm: int | None = None
    deadline_ns: int | None = None

    def deadline_at(self, rate_mhz: int | None) -> int | None:
        """A frame's deadline in ns at a rate: as stated; of a sweep that states none, the period of the rate."""
        if self.deadline_ns is None and self.name is ScenarioName.SWEEP and rate_mhz:
            return 10**12 // rate_mhz
        return self.deadline_ns

    @property
    def open_loop(self) -> bool:
        """Whether frames arrive by a clock of their own, the worker ready or not: a soak and streams only at a rate."""
        if self.name in (ScenarioName.SOAK, ScenarioName.STREAMS):
            return self.rate_mhz is not None
        return self.name in (ScenarioName.PACED, ScenarioName.POISSON, ScenarioName.TRACE, ScenarioName.SWEEP)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One input image."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What is fed: images, cycled; or `synthetic_count` seeded inputs, cycled, where there are none."""

    images: tuple[ImageRef, ...] = ()
    seed: int = 0
    synthetic_count: int = 8


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One request to execute a model on a device."""

    run_id: str
    model: ModelRef
    height: int
    width: int
    batch: int = 1
    backend: BackendSpec = field(default_factory=BackendSpec)
    scenario: Scenario = field(default_factory=Scenario)
    inputs: InputSpec = field(default_factory=InputSpec)
    preprocess: Preprocess = IMAGENET_DEFAULT
    launches: int = 1
    memory_pass: bool = True
    telemetry_rate_hz: float = 10.0
    run_timeout_ns: int = 3600 * SECOND_NS
    stall_timeout_ns: int = 120 * SECOND_NS
    priority: Priority = Priority.INTERACTIVE
    labels: Mapping[str, str] = field(default_factory=dict)
    layers_pass: bool = False
    memory_limit_bytes: int | None = None
    wait_cool_mc: int | None = None
    wait_cool_limit_ns: int | None = None
    regime: str = "as-shipped"
    postprocess: str = ""
    group_id: str = ""
    group_size: int = 0
    set_clocks: bool = False
    extra_sources: tuple[str, ...] = ()

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The digests of everything that must be on the device before the run, and stay there until its end."""
        named = (self.model.sha256, self.model.reference_sha256, self.scenario.trace_sha256)
        files = (file.sha256 for file in self.model.external)
        return (*(sha256 for sha256 in named if sha256), *files, *(image.sha256 for image in self.inputs.images))


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run failed: a kind, one line for people, and the worker's last words."""

    reason: FailureReason
    message: str
    signal: int | None = None
    exit_status: int | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose run it is; `fleet_id` is empty without a fleet's certificate."""

    name: str
    fleet_id: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the agent knows it. It is collected once `acknowledged_sequence` has reached `last_sequence`."""

    spec: RunSpec
    state: RunState
    created_unix_ns: int
    started_unix_ns: int | None = None
    finished_unix_ns: int | None = None
    queue_position: int = 0
    failure: RunFailure | None = None
    last_sequence: int = 0
    acknowledged_sequence: int = 0
    owner: Owner | None = None

    @property
    def collected(self) -> bool:
        """Whether it has ended and a controller has all of it."""
        return self.state.ended and self.acknowledged_sequence >= self.last_sequence


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to a device for several runs; `epoch` grows with every grant."""

    lease_id: str
    epoch: int
    holder: str
    ttl_ns: int
