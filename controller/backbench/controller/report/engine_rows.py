"""A run's engine, its accelerator memory and its layers, as rows for people; older documents have none of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = {
    "cuda.used_delta": "on the device since before the engine",
    "nvml.process": "of the process (NVML)",
    "nvmap.process": "of the process (NvMap)",
    "tensorrt.device_memory": "for TensorRT's execution context",
    "engine.file": "of engine file",
}
_LONGEST_LIST = 120


def precision_of(document: Mapping[str, Any]) -> str:
    """What was computed in: as the backend was asked, else as the model is."""
    asked = (document.get("engine") or {}).get("precision", "as-model")
    return str(document["model"]["precision"] if asked == "as-model" else asked)


def backend_words(document: Mapping[str, Any]) -> str:
    """The backend, with the precision where that is not the usual one."""
    precision = precision_of(document)
    name = str(document["backend"]["name"])
    return name if precision in ("as-model", "fp32") else f"{name} {precision}"


def engine_rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was built, how it runs, who ran which part, what it holds on the accelerator, and where its layers are."""
    if (engine := document.get("engine")) is not None:
        yield from _rows_of(engine)
    if words := _accelerator((document["memory_mb"] or {}).get("accelerator") or {}):
        yield "GPU memory", words
    if (layers := document.get("layers")) is not None:
        told = f"backbench layers {document['run_id'][-8:]}"
        yield "layers", f"{layers['count']}, {layers['total_ms']:.2f} ms together: {told}"


def _rows_of(engine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if words := _built(engine):
        yield "engine", words
    if words := _run(engine):
        yield "run by", words
    if engine["partition"] is not None:
        nodes = ", ".join(f"{name} {count}" for name, count in engine["partition"].items())
        yield "partition", f"{nodes} nodes" + (f"; fell back: {engine['fallback']}" if engine["fallback"] else "")
    if (dla := engine["dla"]) is not None:
        yield "DLA", _dla(dla)


def _accelerator(figures: Mapping[str, Any]) -> str:
    """Each figure for what it is; empty where nothing is told."""
    return "; ".join(f"{figures[name]['peak']:.1f} MB {words}" for name, words in _NAMES.items() if name in figures)


def _built(engine: Mapping[str, Any]) -> str:
    if engine["cached"] is None:
        return ""
    parts = ["from the cache" if engine["cached"] else "built"]
    if engine["build_s"] is not None:
        parts[0] += f", built in {engine['build_s']:.1f} s" if engine["cached"] else f" in {engine['build_s']:.1f} s"
    if engine["size_mb"] is not None:
        parts.append(f"{engine['size_mb']:.1f} MB")
    if engine["layer_count"] is not None:
        parts.append(f"{engine['layer_count']} layers before fusing")
    parts.append(engine["precision"] if engine["precision"] != "as-model" else "precision as the model's")
    return ", ".join(parts)


def _run(engine: Mapping[str, Any]) -> str:
    graph = "" if engine["graph"] in (None, "no") else f"CUDA graph: {engine['graph']}"
    return "; ".join(part for part in (engine["sync"], graph) if part)


def _dla(dla: Mapping[str, Any]) -> str:
    words = f"core {dla['core']}"
    if dla["layers"] is not None:
        words += f", {dla['layers']} layers"
    if dla["fallback"]:
        fallen = dla["fallback"]
        told = fallen if len(fallen) <= _LONGEST_LIST else f"{fallen[:_LONGEST_LIST]}..."
        words += f"; on the GPU: {told}"
    return words
