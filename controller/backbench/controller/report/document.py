"""The `backbench.run/1` document of a run: what was asked, what was measured, under which conditions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

from backbench.controller.analysis.budgets import OF_TELEMETRY, judge, overall, pipeline_span, unjudged
from backbench.controller.analysis.latency import Columns, counts
from backbench.controller.analysis.percentiles import RULE
from backbench.controller.analysis.validity import Evidence, judge_validity
from backbench.controller.report.engine import (
    accelerator_memory,
    contract_facts,
    engine_document,
    layers_document,
)
from backbench.controller.report.measurement import Measurement, measure, of_launches
from backbench.controller.report.observed import Observed, gate_document, observe
from backbench.controller.report.outputs import outputs_document
from backbench.controller.store.records import RunRecord
from backbench.domain.event import LaunchReport, LogLine, RunResult
from backbench.domain.run import LaunchPurpose, RunSpec, Scenario
from backbench.domain.telemetry import TelemetryBlock

MEMORY_DEFINITION = (
    "highest resident set (VmHWM) of a fresh worker process in which nothing is timed, "
    "interpreter and libraries included; MB are 10^6 bytes"
)
_HASH_DIGITS = 16


def build(
    record: RunRecord,
    result: RunResult,
    launches: Sequence[LaunchReport],
    frames: Columns,
    telemetry: Sequence[TelemetryBlock],
    files: Mapping[str, str | None],
    noise: Mapping[str, Any] | None = None,
    log: Sequence[LogLine] = (),
) -> dict[str, Any]:
    """The document; whatever was not measured is None. `noise` is what is known of the device's noise."""
    spec = record.spec
    timed = [launch for launch in launches if launch.purpose is LaunchPurpose.TIMED]
    measured = measure(spec, frames, timed, telemetry)
    soak = measured.soak is not None
    observed = observe(spec, record.device, of_launches(frames, measured.headline), telemetry, curves=soak)
    workers = timed or [launch for launch in launches if launch.purpose is LaunchPurpose.MEMORY]
    facts = dict(workers[0].facts) if workers else {}
    engine = engine_document(spec.backend, launches, facts)
    return {
        "schema": "backbench.run/1",
        "run_id": spec.run_id,
        "state": result.state.value,
        "created": datetime.fromtimestamp(record.created_unix_ns / 1e9, timezone.utc).isoformat(timespec="seconds"),
        "outcome": result.failure.reason.value if result.failure else result.state.value,
        "failure": _failure(result),
        "model": _model(record),
        "device": _device(record),
        "backend": {
            "name": spec.backend.name,
            "version": facts.get("backend_version"),
            "providers": facts["providers"].split(",") if "providers" in facts else None,
        },
        "engine": engine,
        "scenario": _scenario(spec.scenario),
        "contract": _hashed(_contract(spec, facts)),
        "fingerprint": _hashed(_fingerprint(record, result)),
        "frames": counts(frames),
        **_of_frames(record, measured, observed),
        "memory_limit_mb": None if spec.memory_limit_bytes is None else spec.memory_limit_bytes / 1e6,
        "memory_mb": (memory := _memory([each for each in launches if each.purpose is LaunchPurpose.MEMORY])),
        "cold_start_ms": (cold_start := _cold_start(timed)),
        "frames_to_steady": _frames_to_steady(spec, timed, measured),
        "counters": dict(timed[0].counters) if timed else None,
        "per_launch": [_launch(each) for each in timed],
        "overhead": _overhead(timed, noise),
        **_of_telemetry(spec, result, observed),
        "layers": layers_document(launches),
        "outputs": (compared := outputs_document(timed)),
        "validity": judge_validity(
            replace(_evidence(record, result, frames, timed, observed, measured, compared, log), engine=engine)
        ),
        "budgets": (budgets := _budgets(record, measured, observed, memory, cold_start, compared)),
        "verdict": overall(budgets),
        "log": [asdict(line) for line in log if line.level != "info"],
        "files": dict(files),
    }


def _of_telemetry(spec: RunSpec, result: RunResult, observed: Observed) -> dict[str, Any]:
    """The parts that sensors tell, and how the device was prepared."""
    return {
        "thermal": observed.thermal,
        "clocks": observed.clocks,
        "energy_j_per_frame": observed.energy,
        "power_w": observed.power,
        "energy_missing": observed.energy_missing,
        "spikes": observed.spikes,
        "telemetry_gaps_s": dict(observed.gaps),
        "regime": spec.regime,
        "cool_gate": gate_document(result.cool_gate),
        "clocks_set": dict(result.clocks_set),
    }


def _of_frames(record: RunRecord, measured: Measurement, observed: Observed) -> dict[str, Any]:
    """The parts that frames alone tell."""
    fps = measured.throughput_fps
    return {
        "pipeline": pipeline_span(record.spec.scenario),
        "latency_ms": measured.latency_ms,
        "percentile_rule": RULE,
        "insufficient": measured.insufficient,
        "steady": measured.steady_rows(),
        "launches": measured.launches,
        "throughput_fps": fps,
        "images_per_s": None if fps is None else fps * record.spec.batch,
        "load": measured.load,
        "soak": _soak(measured, observed),
        "sweep": measured.sweep,
        "streams": _streams(record, measured),
    }


def _soak(measured: Measurement, observed: Observed) -> dict[str, Any] | None:
    """Each launch's minutes and slopes, and its slices beside what the sensors read."""
    if measured.soak is None:
        return None
    nothing: dict[str, Any] = {"slices": [], "sustained": None}
    return {"launches": [{**row, **observed.curves.get(row["launch"], nothing)} for row in measured.soak["launches"]]}


def _budgets(
    record: RunRecord,
    measured: Measurement,
    observed: Observed,
    memory: Mapping[str, Any] | None,
    cold_start: Mapping[str, Any] | None,
    compared: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    peak_mb = None if memory is None else memory["peak"]
    if measured.streams is not None and measured.streams["rows"]:
        peak_mb = measured.streams["rows"][-1]["memory_mb"]  # of the engines that the latencies are of, together
    rows = judge(
        record.budgets,
        record.spec.scenario,
        measured.latency_ms,
        peak_mb=peak_mb,
        load=measured.load,
        cold_start_ms=None if cold_start is None else cold_start["total"],
        telemetry=observed.judged(),
    )
    return unjudged(rows) if compared and not compared["passed"] else rows


def runs_document(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several runs in one document."""
    return {"schema": "backbench.runs/1", "runs": list(documents)}


def _model(record: RunRecord) -> dict[str, Any]:
    """What was executed; where it was exported or converted here, also its weights, and what was compared then."""
    spec = record.spec
    manifest = record.model_facts or {}
    stated = manifest.get("model") or {}
    return {
        "name": spec.model.name,
        "artifact": spec.model.sha256,
        "source": spec.model.source,
        "size": [spec.height, spec.width],
        "precision": spec.model.precision,
        "reference": spec.model.reference_sha256 or None,
        "weights": stated.get("weights") or ("random" if spec.model.source == "skeleton" else None),
        "weights_sha256": stated.get("weights_sha256"),
        "verification": manifest.get("verification"),
        "conversion": manifest.get("precision"),
    }


def _evidence(
    record: RunRecord,
    result: RunResult,
    frames: Columns,
    timed: Sequence[LaunchReport],
    observed: Observed,
    measured: Measurement,
    compared: Mapping[str, Any] | None,
    log: Sequence[LogLine],
) -> Evidence:
    spec, service = record.spec, measured.latency_ms["service"]
    return Evidence(
        state=result.state.value,
        counts=counts(frames),
        unaccounted=measured.unaccounted,
        insufficient=measured.insufficient,
        steady=[found.kind for found in measured.steady.values()],
        dependence=service["n_eff"] / service["n"] if service else None,
        spread=measured.launches["spread"] if measured.launches else None,
        counters=[launch.counters for launch in timed if launch.launch in measured.headline],
        service=service,
        load=measured.load,
        clock_range_ppm=observed.clock_range_ppm,
        outputs=compared,
        reference=bool(spec.model.reference_sha256),
        input_count=len(spec.inputs.images) or spec.inputs.synthetic_count,
        cause=next((line.text for line in reversed(log) if line.level == "error"), ""),
        regime=spec.regime,
        thermal=observed.thermal,
        clocks=observed.clocks,
        cool_gate=gate_document(result.cool_gate),
        gaps=observed.gaps,
        simulation=_simulation(record),
    )


def _streams(record: RunRecord, measured: Measurement) -> dict[str, Any] | None:
    """Each step of streams judged by the run's budgets, and the most engines that kept them.

    What a step did not measure is unknown, and keeps no budget. The cold start and what sensors read are the run's, not
    a step's.
    """
    if measured.streams is None:
        return None
    rows = []
    for row in measured.streams["rows"]:
        judged = judge(record.budgets, record.spec.scenario, row["latency_ms"], peak_mb=row["memory_mb"], load=row)
        judged = [budget for budget in judged if budget["metric"] not in ("cold_start", *OF_TELEMETRY)]
        rows.append({**row, "budgets": judged, "verdict": overall(judged)})
    fitting = [row["streams"] for row in rows if row["verdict"] in (None, "pass")]
    return {"most_fitting": max(fitting, default=None) if rows else None, "rows": rows}


def _overhead(timed: Sequence[LaunchReport], noise: Mapping[str, Any] | None) -> dict[str, Any]:
    """What measuring costs: the loop with an engine that does nothing, and telemetry by the device's last noise run."""
    found = {
        f"loop_{name}_us": max(values) / 1e3 if values else None
        for name in ("overhead_p50", "overhead_p99", "period_p50")
        for values in [[each.counters[f"loop_{name}_ns"] for each in timed if f"loop_{name}_ns" in each.counters]]
    }
    return {
        **found,
        "telemetry_difference": noise["telemetry"]["difference"] if noise else None,
        "noise_floor": noise["noise_floor"] if noise else None,
        "noise_measured": noise["measured"] if noise else None,
    }


def _contract(spec: RunSpec, facts: Mapping[str, str]) -> dict[str, Any]:
    """Everything that defines what a latency of this run means, but for the model itself."""
    images = [image.sha256 for image in spec.inputs.images]
    return {
        **contract_facts(facts),
        "precision": spec.model.precision,
        "batch": spec.batch,
        "size": [spec.height, spec.width],
        "scenario": _scenario(spec.scenario),
        "percentile_rule": RULE,
        "preprocess": asdict(spec.preprocess) if images else None,
        "preprocess_digest": spec.preprocess.digest if images else None,
        "inputs_digest": _digest(images or [spec.inputs.seed, spec.inputs.synthetic_count]),
        "telemetry_rate_hz": spec.telemetry_rate_hz,
        "regime": spec.regime,
        # None where it was not asked for, as in a document of an older version.
        "engine_precision": spec.backend.precision or None,
        "backend_options": dict(sorted(spec.backend.options.items())) or None,
        "extra_sources": sorted(spec.extra_sources) or None,
        "wait_cool_c": None if spec.wait_cool_mc is None else spec.wait_cool_mc / 1e3,
        "set_clocks": spec.set_clocks or None,
    }


def _fingerprint(record: RunRecord, result: RunResult) -> dict[str, Any]:
    """Everything about the device that moves a number."""
    device = record.device
    if device is None:
        return {"device": None}
    identity = asdict(device.identity)
    for name in ("conditions", "hostname"):  # the one is added below, the other moves no number
        identity.pop(name)
    return {
        **identity,
        "agent_version": device.agent_version,
        "simulated": device.simulated,
        **{f"condition.{name}": value for name, value in sorted(result.conditions_start.items())},
        "conditions_changed": result.conditions_start != result.conditions_end,
    }


def _hashed(fields: dict[str, Any]) -> dict[str, Any]:
    return {"hash": _digest(fields), **fields}


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_DIGITS]


def _device(record: RunRecord) -> dict[str, Any]:
    device = record.device
    identity = device.identity if device else None
    board = (identity.board or identity.soc or identity.machine) if identity else ""
    return {
        "name": record.device_name,
        "board": board or None,
        "simulated": bool(device and device.simulated),
        "simulation": _simulation(record) or None,
    }


def _simulation(record: RunRecord) -> str:
    """The recording that the device replays; empty for real hardware."""
    device = record.device
    return (device.simulation or "a recording") if device is not None and device.simulated else ""


def _scenario(scenario: Scenario) -> dict[str, Any]:
    fields = asdict(scenario)
    for name in ("name", "queue_policy"):
        fields[name] = fields[name].value if fields[name] is not None else None
    return fields


def _failure(result: RunResult) -> dict[str, Any] | None:
    return None if result.failure is None else {**asdict(result.failure), "reason": result.failure.reason.value}


def _memory(launches: Sequence[LaunchReport]) -> dict[str, Any] | None:
    found = [phase for launch in launches for phase in launch.memory]
    if not found:
        return None
    # What is left when the engine is closed shows what it held; it is no part of what running it needs.
    peaks = [phase.peak_bytes for phase in found if phase.name != "after_free"]
    known = [peak for peak in peaks if peak is not None]
    return {
        "peak": _mb(max(known)) if known and len(known) == len(peaks) else None,
        "definition": MEMORY_DEFINITION,
        "phases": {
            phase.name: {
                "peak": _mb(phase.peak_bytes),
                "resident": _mb(phase.resident_bytes),
                "figures": {name: value / 1e6 for name, value in phase.figures.items()},
            }
            for phase in found
        },
        "accelerator": accelerator_memory(found),
    }


def _mb(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 1e6


def _launch(report: LaunchReport) -> dict[str, Any]:
    """What one worker reported besides frames."""
    return {
        "launch": report.launch,
        "stream": report.stream,
        "cold_start_ms": _cold_start([report]),
        "counters": dict(report.counters),
    }


def _cold_start(timed: Sequence[LaunchReport]) -> dict[str, Any] | None:
    """Of the first one: the coldest, as it fills the caches of the others."""
    if not timed or not timed[0].phases:
        return None
    phases = {phase.name: phase.duration_ns / 1e6 for phase in timed[0].phases}
    return {"total": sum(length for name, length in phases.items() if name != "warmup"), "phases": phases}


def _frames_to_steady(spec: RunSpec, timed: Sequence[LaunchReport], measured: Measurement) -> int | None:
    """How many frames the first launch took to become steady, warm-up included; None where it did not."""
    found = measured.steady.get((timed[0].launch, timed[0].stream)) if timed else None
    steady = found is not None and found.kind in ("flat", "warm-up")
    return spec.scenario.warmup_frame_count + found.start if found is not None and steady else None
