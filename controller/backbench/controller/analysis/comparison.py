"""Several runs side by side, if they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PIPELINE = "pipeline"
"""In a path: the span that the document calls so; one of an older version has `service` alone."""
_ENERGY = "energy"
_METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "p50": ("ms", ("latency_ms", _PIPELINE, "p50", "value")),
    "p99": ("ms", ("latency_ms", _PIPELINE, "p99", "value")),
    "mean": ("ms", ("latency_ms", _PIPELINE, "mean")),
    "max": ("ms", ("latency_ms", _PIPELINE, "max")),
    "preprocess p50": ("ms", ("latency_ms", "preprocess", "p50", "value")),
    "compute p50": ("ms", ("latency_ms", "compute", "p50", "value")),
    "throughput": ("fps", ("throughput_fps",)),
    "memory": ("MB", ("memory_mb", "peak")),
    "cold start": ("ms", ("cold_start_ms", "total")),
    _ENERGY: ("J a frame", ("energy_j_per_frame", "value")),
    "power": ("W", ("power_w", "mean")),
}
_OF_A_SCOPE = {_ENERGY: "energy_j_per_frame", "power": "power_w"}
"""Metrics that compare only where they cover the same part of a device and were read in the same way."""
_COMPARED = {"hash", "input", "size", "preprocess", "preprocess_digest", "precision", "engine_precision"}
"""Fields of a contract that belong to the model, or to its precision."""
_MODEL, _BACKEND = "model", "backend"
_ASKED_OF_EVERY_BACKEND = {
    "batch", "clock", "extra_sources", "image_library", "inputs", "inputs_digest", "percentile_rule", "postprocess",
    "python", "regime", "scenario", "set_clocks", "telemetry_rate_hz", "wait_cool_c", "warmup",
}  # fmt: skip
"""Fields of a contract that are the same for all backends; what else is there is a backend's own."""


def compare(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of {metric, unit, values, ratios} with ratios to the first run, and the differing conditions, if any.

    What is `compared` is "backend" where one model of one size was executed by several, and else "model" (its name,
    artifact, size, preprocessing). The fields of the contract that belong to it may differ; every other one, and the
    fingerprint, must be equal. A simulated device never compares with a real one or with another recording
    (`simulation_differs`). Energy and power that cover different things have no ratio.
    """
    compared = _what_is_compared(documents)
    rows = [
        {"metric": metric, "unit": unit, **_ratios([_value(document, path) for document in documents])}
        for metric, (unit, path) in _METRICS.items()
    ]
    for row in rows:
        if row["metric"] in _OF_A_SCOPE and len(set(_scopes(documents, _OF_A_SCOPE[row["metric"]]))) > 1:
            row["ratios"] = [None] * len(documents)
    differences = [row for part in ("contract", "fingerprint") for row in _differences(part, documents, compared)]
    simulations = [_simulation(document) for document in documents]
    simulation_differs = len(set(simulations)) > 1
    if simulation_differs:
        differences.insert(0, {"field": "device.simulation", "values": simulations})
    return {
        "compared": compared,
        "rows": rows,
        "differences": differences,
        "comparable": not differences,
        "simulation_differs": simulation_differs,
    }


def _what_is_compared(documents: Sequence[Mapping[str, Any]]) -> str:
    models = {(document["model"]["name"], tuple(document["model"]["size"])) for document in documents}
    backends = {document["backend"]["name"] for document in documents}
    return _BACKEND if len(models) == 1 and len(backends) > 1 else _MODEL


def _simulation(document: Mapping[str, Any]) -> str | None:
    """The recording that a device replays, None for a real one; an older document says only that there is one."""
    device = document["device"]
    return (device.get("simulation") or "a recording") if device["simulated"] else None


def _scopes(documents: Sequence[Mapping[str, Any]], part: str) -> list[Any]:
    parts = [document.get(part) or {} for document in documents]
    return [(each.get("scope"), each.get("method")) for each in parts]


def _differences(part: str, documents: Sequence[Mapping[str, Any]], compared: str) -> list[dict[str, Any]]:
    parts = [document[part] for document in documents]
    names = sorted({name for each in parts for name in each} - _COMPARED)
    if part == "contract" and compared == _BACKEND:
        names = [name for name in names if name in _ASKED_OF_EVERY_BACKEND]
    found = [{"field": f"{part}.{name}", "values": [each.get(name) for each in parts]} for name in names]
    return [row for row in found if any(value != row["values"][0] for value in row["values"])]


def _value(document: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = document
    for step in path:
        if value is None:
            return None
        if step in _OF_A_SCOPE.values():
            value = value.get(step)  # a document of an older version has none
            continue
        value = value[document.get(_PIPELINE, "service") if step == _PIPELINE else step]
    return None if value is None else float(value)


def _ratios(values: list[float | None]) -> dict[str, Any]:
    first = values[0]
    ratios = [None if value is None or not first else value / first for value in values]
    return {"values": values, "ratios": ratios}
