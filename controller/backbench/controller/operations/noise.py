"""How much a device's times differ where nothing differs: the same model twice, and with and without telemetry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from statistics import median
from typing import Any

from backbench.controller.operations.devices import client_of
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import Plan, ProfileRequest, plan_profile
from backbench.controller.operations.profile import profile
from backbench.controller.operations.ranges import within
from backbench.controller.operations.reservation import Reservation
from backbench.controller.operations.stop import Stop
from backbench.controller.store import RunRecord, Store
from backbench.domain.errors import BackendUnavailable
from backbench.domain.run import RunSpec

DEFAULT_MODEL = "mobilenetv3_small_100"
TELEMETRY_MARGIN = 0.01
"""A change of the median that telemetry may cause; within the noise floor it cannot be told from none."""

Documents = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The `backbench.run/1` documents of a pair of runs that took turns."""


@dataclass(frozen=True, slots=True)
class NoiseRequest:
    """What is compared with itself, and how often."""

    device: str
    model: str = DEFAULT_MODEL
    launches: int = 6
    frames: int = 500


def plan_noise(request: NoiseRequest) -> Plan:
    """A plan of two equal runs that take turns. Raises InvalidRequest."""
    within("--launches", request.launches, 2, 100)
    within("--frames", request.frames, 20, 1_000_000)
    return plan_profile(
        ProfileRequest(
            (request.model, request.model),
            request.device,
            frames=request.frames,
            launches=request.launches,
            memory_pass=False,
            name="noise",
            take_turns=True,
        )
    )


def measure_noise(
    store: Store, plan: Plan, observer: Observer, stop: Stop, insecure: bool = False, *, wait: bool = True
) -> dict[str, Any] | None:
    """Measure a device's noise floor and keep it; its `backbench.noise/1` document, None when `stop` was requested.

    The device is reserved for all of it; without `wait` one that somebody else uses is an error. Raises DeviceNotFound,
    AgentUnreachable, BackendUnavailable for a run that failed, and whatever the device refuses.
    """
    record = store.device(plan.request.device)
    pairs = []
    with client_of(store, record, insecure) as client, Reservation(client, record.name, observer, wait=wait) as held:
        for change in (None, _second_without_telemetry):
            records = profile(store, plan, observer, stop, insecure, change, reservation=held)
            if stop.requested:
                return None
            first, second = (_document(record) for record in records)
            pairs.append((first, second))
    document = noise_document(pairs[0], pairs[1], time.time_ns())
    store.put_noise(plan.request.device, document)
    return document


def noise_document(same: Documents, observed: Documents, measured_unix_ns: int) -> dict[str, Any]:
    """`backbench.noise/1` out of a pair of equal runs, and of one with telemetry and one without, in this order.

    `ratio` is that of the medians over launches of the launches' p50, second to first, in the telemetry part that of
    with to without; `difference` is how far a ratio is from 1 (of equal runs without a sign), `spread` the largest
    relative difference between launches of one run. `noise_floor` is the difference of equal runs.
    """
    first, second = (_launch_medians_ms(document) for document in same)
    ratio = median(second) / median(first)
    noise_floor = max(ratio, 1 / ratio) - 1
    observing, alone = (median(_launch_medians_ms(document)) for document in observed)
    contract = observed[0]["contract"]
    return {
        "schema": "backbench.noise/1",
        "device": same[0]["device"]["name"],
        "measured": datetime.fromtimestamp(measured_unix_ns / 1e9, timezone.utc).isoformat(timespec="seconds"),
        "measured_unix_ns": measured_unix_ns,
        "model": {name: same[0]["model"][name] for name in ("name", "size", "precision")},
        "launches": len(first),
        "frames": same[0]["scenario"]["frame_count"],
        "noise_floor": noise_floor,
        "same": {
            "p50_ms": [first, second],
            "ratio": ratio,
            "difference": noise_floor,
            "spread": max(max(launches) / min(launches) - 1 for launches in (first, second)),
        },
        "telemetry": {
            "rate_hz": contract["telemetry_rate_hz"],
            "p50_ms": {"with": observing, "without": alone},
            "ratio": observing / alone,
            "difference": observing / alone - 1,
            "flagged": observing / alone - 1 > max(TELEMETRY_MARGIN, noise_floor),
        },
        "loop": {
            "overhead_p50_ns": _counter("loop_overhead_p50_ns", (*same, *observed)),
            "period_p50_ns": _counter("loop_period_p50_ns", (*same, *observed)),
        },
        "runs": [document["run_id"] for document in (*same, *observed)],
    }


def _second_without_telemetry(place: int, spec: RunSpec) -> RunSpec:
    return replace(spec, telemetry_rate_hz=0.0) if place == 1 else spec


def _document(record: RunRecord) -> Mapping[str, Any]:
    document = record.document or {}
    if document.get("state") != "done":
        failure = document.get("failure") or {"message": f"run {record.run_id} is {record.state.value}"}
        raise BackendUnavailable(f"{record.device_name} has no noise floor, as a run failed: {failure['message']}")
    return document


def _launch_medians_ms(document: Mapping[str, Any]) -> list[float]:
    rows: Sequence[Mapping[str, Any]] = (document.get("launches") or {}).get("rows") or ()
    medians = [float(row["p50_ms"]) for row in rows if row["p50_ms"] is not None]
    if not medians:
        raise BackendUnavailable(
            f"{document['device']['name']} has no noise floor, as no launch of run {document['run_id']} has a median;"
            " see what went wrong: backbench run show"
        )
    return medians


def _counter(name: str, documents: Sequence[Mapping[str, Any]]) -> int | None:
    """The median over the runs that reported it; None where none did."""
    values = [value for document in documents if (value := (document.get("counters") or {}).get(name)) is not None]
    return round(median(values)) if values else None
