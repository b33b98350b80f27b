"""Devices and runs as the store gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbench.domain.device import Device
from backbench.domain.run import RunSpec, RunState


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device by the name that its user gave it; `device` is what it last said of itself."""

    name: str
    address: str
    added_unix_ns: int
    device: Device | None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run of this store; `document` is its `backbench.run/1` document once it is finished here."""

    run_id: str
    device_name: str
    device: Device | None
    spec: RunSpec
    state: RunState
    budgets: tuple[str, ...]
    created_unix_ns: int
    finished_unix_ns: int | None = None
    document: dict[str, Any] | None = None
    group: str = ""
