"""Several runs side by side, if they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PIPELINE = "pipeline"
"""In a path: the span that the document calls so; one of an older version has `service` alone."""
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
}
_COMPARED = {"hash", "input", "size", "preprocess", "preprocess_digest", "precision"}
"""Fields of a contract that belong to the model, which is what is being compared."""


def compare(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of {metric, unit, values, ratios} with ratios to the first run, and the differing conditions, if any.

    What is compared is the model (its name, artifact, size and preprocessing). Every other field of contract and
    fingerprint must be equal, and simulated devices never compare with real ones.
    """
    rows = [
        {"metric": metric, "unit": unit, **_ratios([_value(document, path) for document in documents])}
        for metric, (unit, path) in _METRICS.items()
    ]
    differences = [row for part in ("contract", "fingerprint") for row in _differences(part, documents)]
    simulated = [document["device"]["simulated"] for document in documents]
    if len(set(simulated)) > 1:
        differences.insert(0, {"field": "device.simulated", "values": simulated})
    return {"rows": rows, "differences": differences, "comparable": not differences}


def _differences(part: str, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    parts = [document[part] for document in documents]
    names = sorted({name for each in parts for name in each} - _COMPARED)
    found = [{"field": f"{part}.{name}", "values": [each.get(name) for each in parts]} for name in names]
    return [row for row in found if any(value != row["values"][0] for value in row["values"])]


def _value(document: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = document
    for step in path:
        if value is None:
            return None
        value = value[document.get(_PIPELINE, "service") if step == _PIPELINE else step]
    return None if value is None else float(value)


def _ratios(values: list[float | None]) -> dict[str, Any]:
    first = values[0]
    ratios = [None if value is None or not first else value / first for value in values]
    return {"values": values, "ratios": ratios}
