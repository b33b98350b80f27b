"""What a device is, what it can run and what it can sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PROTOCOL_REVISION = 5
"""Grows by one with every addition to backbench.v1."""
MIN_PROTOCOL_REVISION = 1
"""Oldest revision of the other side that this code works with."""


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """Hardware and system; a text is empty and a number None when unknown."""

    board: str = ""
    module: str = ""
    soc: str = ""
    serial_hash: str = ""
    machine: str = ""
    cpu_count: int | None = None
    memory_bytes: int | None = None
    os: str = ""
    kernel: str = ""
    platform_release: str = ""
    cuda_architecture: str = ""
    conditions: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    family: str = ""
    jetpack: str = ""
    firmware: str = ""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way of executing a model; `reason` says what is missing when it is not available."""

    name: str
    available: bool
    version: str = ""
    reason: str = ""
    providers: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    max_opset: int | None = None
    options: tuple[str, ...] = ()
    engine_precisions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SensorChannel:
    """One quantity from one source; `reason` says what is missing when it is not readable."""

    name: str
    unit: str
    source: str
    scope: str = ""
    method: str = "instant"
    window_ns: int | None = None
    available: bool = True
    reason: str = ""
    read_ns: int | None = None
    kind: str = "gauge"


@dataclass(frozen=True, slots=True)
class SensorSource:
    """One way of reading the machine. `state` is "read", "absent", "denied" or "off", `reason` why and the cure."""

    name: str
    state: str
    reason: str = ""
    period_ns: int = 0
    read_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What an agent refuses to exceed."""

    message_bytes: int = 4 << 20
    artifact_bytes: int = 8 << 30
    queue_length: int = 8
    frame_count: int = 2_000_000
    image_count: int = 1024
    run_duration_ns: int = 24 * 3600 * 10**9
    free_bytes: int | None = None
    memory_limit_floor_bytes: int | None = None
    journal_bytes: int = 4 << 30
    artifact_store_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """One physical unit running one agent."""

    device_id: str
    identity: DeviceIdentity
    backends: tuple[Backend, ...]
    sensors: tuple[SensorChannel, ...]
    limits: Limits
    agent_version: str
    protocol_revision: int
    min_protocol_revision: int
    agent_instance_id: str
    simulated: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    sensor_sources: tuple[SensorSource, ...] = ()
    simulation: str = ""


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """How an agent itself is: what goes on and what is kept. `run_counts` is by the name of the state."""

    agent_version: str
    started_unix_ns: int
    listen: str
    tls: bool
    running_run_ids: tuple[str, ...]
    queued_run_ids: tuple[str, ...]
    run_counts: Mapping[str, int]
    uncollected_count: int
    artifact_bytes: int
    artifact_limit_bytes: int
    journal_bytes: int
    journal_limit_bytes: int
    free_bytes: int
    last_error: str = ""
    last_error_unix_ns: int | None = None
