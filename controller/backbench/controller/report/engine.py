"""What a backend made of a model and where that ran: the document's `engine`, `layers` and accelerator memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backbench.domain.event import LaunchReport, MemoryPhase
from backbench.domain.run import BackendSpec, LaunchPurpose

FIGURES = {
    "cuda.used_delta": "what the CUDA driver calls used on the whole device, less what that was before the engine",
    "nvml.process": "what NVML counts for the worker process",
    "nvmap.process": "what NvMap, the allocator of integrated GPUs, holds for the worker process",
    "tensorrt.device_memory": "what TensorRT says that an execution context of the engine needs; no weights",
    "engine.file": "the engine's file, read into the worker",
}
"""Figures of a worker's accelerator memory, each for what it is: they overlap, and none of them may be added up."""
_NOTHING_FELL = ("", "none", "not allowed")
_NAMES_OF_BUILD = ("cached", "engine", "backend")
"""Facts of a build that are no part of what its engine depends on."""
_OF_THE_MODEL = ("built_for", "profile", "dla_fallback", "partition", "partition_from", "fallback")
_OF_NO_NUMBER = ("isolation", "timing_cache", "layer_times", "cuda_library_why")


def contract_facts(facts: Mapping[str, str]) -> dict[str, Any]:
    """Of a worker's facts those that define what a latency means, but for the model and for how long a build took."""
    kept = {name: value for name, value in sorted(facts.items()) if name not in (*_OF_THE_MODEL, *_OF_NO_NUMBER)}
    # Which nodes fell back hangs on the model; that some did is another way of running it.
    return {**kept, "fallback": True} if fallback_of(facts) else kept


def fallback_of(facts: Mapping[str, str]) -> str | None:
    """Who ran a part of the model in place of who was asked for, as the device words it; None for nobody."""
    text = facts.get("fallback", "")
    return None if text in _NOTHING_FELL else text


def engine_document(
    spec: BackendSpec, launches: Sequence[LaunchReport], facts: Mapping[str, str]
) -> dict[str, Any] | None:
    """`engine`; None for a backend that builds nothing and has nobody to share a model with. `facts` are a worker's."""
    build = next((each for each in launches if each.purpose is LaunchPurpose.BUILD), None)
    if build is None and "partition" not in facts:
        return None
    known = build.facts if build else {}
    counters = build.counters if build else {}
    device_memory = _highest(_memory_phases(launches), "tensorrt.device_memory")
    return {
        "key": {name: value for name, value in known.items() if name not in _NAMES_OF_BUILD} or None,
        "digest": known.get("engine"),
        "cached": known["cached"] == "yes" if "cached" in known else None,
        "build_s": counters["build_ns"] / 1e9 if "build_ns" in counters else None,
        "size_mb": counters["engine_bytes"] / 1e6 if "engine_bytes" in counters else None,
        "layer_count": counters.get("layer_count"),
        "device_memory_mb": None if device_memory is None else device_memory / 1e6,
        "precision": spec.precision or "as-model",
        "precision_policy": facts.get("precision_policy"),
        "graph": facts.get("cuda_graph"),
        "sync": facts.get("synchronisation"),
        "partition": parse_partition(facts.get("partition", "")),
        "fallback": fallback_of(facts),
        "dla": _dla(facts, counters),
    }


def layers_document(launches: Sequence[LaunchReport]) -> dict[str, Any] | None:
    """`layers`, which sums up what `layers.parquet` holds; None without a layers pass."""
    report = layers_report(launches)
    if report is None:
        return None
    by_engine: dict[str, dict[str, Any]] = {}
    for layer in report.layers:
        row = by_engine.setdefault(layer.provider, {"layers": 0, "ms": 0.0})
        row["layers"] += 1
        row["ms"] += layer.mean_ns / 1e6
    return {
        "count": report.counters.get("layer_count", len(report.layers)),
        "kept": len(report.layers),
        "inferences": report.counters.get("inference_count"),
        "total_ms": sum(row["ms"] for row in by_engine.values()),
        "engines": by_engine,
        "times": report.facts.get("layer_times"),
    }


def layers_report(launches: Sequence[LaunchReport]) -> LaunchReport | None:
    """The report of the layers pass, where there was one that gave layers."""
    return next((each for each in launches if each.purpose is LaunchPurpose.LAYERS and each.layers), None)


def accelerator_memory(phases: Sequence[MemoryPhase]) -> dict[str, Any] | None:
    """The highest of each figure while the engine was there, with its definition; None where nothing was told."""
    held = [phase for phase in phases if phase.name != "after_free"]
    found = {name: _highest(held, name) for name in FIGURES}
    rows = {
        name: {"peak": value / 1e6, "definition": FIGURES[name]} for name, value in found.items() if value is not None
    }
    return rows or None


def parse_partition(text: str) -> dict[str, int] | None:
    """Nodes by provider; None where the device does not tell.

    >>> parse_partition("CUDAExecutionProvider 120, CPUExecutionProvider 3")
    {'CUDAExecutionProvider': 120, 'CPUExecutionProvider': 3}
    >>> parse_partition("unknown") is None
    True
    """
    found: dict[str, int] = {}
    for part in text.split(", "):
        name, _, count = part.rpartition(" ")
        if not name or not (count.isascii() and count.isdigit()):
            return None
        found[name] = int(count)
    return found


def _dla(facts: Mapping[str, str], counters: Mapping[str, int]) -> dict[str, Any] | None:
    if "dla" not in facts:
        return None
    fallen = facts.get("dla_fallback", "")
    return {
        "core": facts["dla"],
        "layers": counters.get("dla_layer_count"),
        "fallback_layers": counters.get("dla_fallback_layer_count"),
        "fallback": None if fallen in _NOTHING_FELL else fallen,
    }


def _memory_phases(launches: Sequence[LaunchReport]) -> list[MemoryPhase]:
    return [phase for each in launches if each.purpose is LaunchPurpose.MEMORY for phase in each.memory]


def _highest(phases: Sequence[MemoryPhase], name: str) -> int | None:
    return max((phase.figures[name] for phase in phases if name in phase.figures), default=None)
