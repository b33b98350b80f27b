"""Live telemetry of a device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from backbench.controller.client.calls import ANSWER_S
from backbench.controller.operations.device_check import TELEMETRY_SOURCES, check_sources
from backbench.controller.operations.devices import client_of, contact
from backbench.controller.operations.ranges import within
from backbench.controller.store import Store
from backbench.domain.device import Device
from backbench.domain.errors import VersionMismatch
from backbench.domain.telemetry import TelemetryBlock

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What is watched, how often, and for how long; `seconds` None goes on until somebody stops it."""

    device: str
    rate_hz: float = 2.0
    sensors: tuple[str, ...] = ()
    seconds: float | None = None


def check_watch(request: WatchRequest) -> None:
    """Raises InvalidRunSpec for a number outside its range."""
    within("--rate", request.rate_hz, LOWEST_RATE_HZ, HIGHEST_RATE_HZ)
    within("--seconds", 1.0 if request.seconds is None else request.seconds, 0.1, 7 * 86400)


@contextmanager
def watched(
    store: Store, request: WatchRequest, insecure: bool = False
) -> Iterator[tuple[Device, Iterator[TelemetryBlock]]]:
    """The device and its telemetry while the block runs. Raises what reaching it and its sensors may."""
    record = store.device(request.device)
    with client_of(store, record, insecure) as client:
        device = contact(store, record, client)
        _check(request.sensors, device, record.name)
        longest_s = None if request.seconds is None else request.seconds + ANSWER_S
        blocks = client.watch_telemetry(request.rate_hz, request.sensors, longest_s)
        try:
            yield device, blocks if request.seconds is None else _for(blocks, request.seconds)
        finally:
            blocks.close()


def _for(blocks: Iterator[TelemetryBlock], seconds: float) -> Iterator[TelemetryBlock]:
    """What comes until so long after the first block: a device may have to start its sampler first."""
    until_s: float | None = None
    for block in blocks:
        yield block
        now_s = time.monotonic()
        until_s = now_s + seconds if until_s is None else until_s
        if now_s >= until_s:
            return


def _check(sensors: Sequence[str], device: Device, name: str) -> None:
    if sensors and TELEMETRY_SOURCES not in device.features:
        raise VersionMismatch(f"the agent on {name} does not know --sensor; update Backbench on the device")
    check_sources(sensors, device, name)
