"""Devices and runs as the store gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backbench.domain.device import Device
from backbench.domain.run import RunSpec, RunState


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device by the name that its user gave it; `device` is what it last said of itself.

    `device_id` is what its certificate must name; empty where it is talked to in plain text or was never reached.
    `certificate_not_after_unix_s` and `revocation_number` are what it has of this fleet, 0 where that is not known.
    """

    name: str
    address: str
    added_unix_ns: int
    device: Device | None
    device_id: str = ""
    certificate_not_after_unix_s: int = 0
    revocation_number: int = 0


@dataclass(frozen=True, slots=True)
class DeviceRoofline:
    """A device's peak rates, as a backend reaches them; `threads` is None where the backend has none."""

    peak_flops_per_s: float
    peak_bytes_per_s: float
    measured_unix_ns: int
    backend: str
    precision: str
    threads: int | None

    @property
    def ridge_flop_per_byte(self) -> float:
        """The arithmetic intensity from which on computing limits, and below which moving bytes does."""
        return self.peak_flops_per_s / self.peak_bytes_per_s


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run of this store; `document` is its `backbench.run/1` document once it is finished here.

    `model_facts` is the model's manifest, where it was exported or converted here.
    """

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
    model_facts: Mapping[str, Any] | None = None
