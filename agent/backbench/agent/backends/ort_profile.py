"""What ONNX Runtime writes of each node while it profiles, read back: events in JSON, their times in microseconds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backbench.domain.event import Layer

_SUFFIX = "_kernel_time"


class _Node(NamedTuple):
    """One node of the optimised graph, where it ran."""

    name: str
    operator: str
    provider: str
    place: str


def read_profile(path: Path) -> list[dict[str, Any]]:
    """The events of a profile, and the file removed. Raises OSError or ValueError where it is none."""
    try:
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    finally:
        path.unlink(missing_ok=True)
    if not isinstance(events, list):
        raise ValueError("not a list of events")  # noqa: TRY004 - what is in a file has no type
    return [event for event in events if isinstance(event, dict)]


def layers_of(events: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """Each node with the mean of its calls in all inferences but the first, in the order of execution."""
    first_end = _end_of_first_inference(events)
    lengths: dict[_Node, list[float]] = {}
    for event in _node_events(events):
        if event["ts"] >= first_end:
            lengths.setdefault(_node(event), []).append(event["dur"])
    return [
        Layer(node.name, node.operator, node.provider, round(1000 * sum(each) / len(each)), len(each))
        for node, each in lengths.items()
    ]


def partition_of(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many nodes ran on each provider."""
    return dict(Counter(node.provider for node in {_node(event) for event in _node_events(events)}))


def partition_text(nodes: Mapping[str, int]) -> str:
    """A partition for people: most nodes first.

    >>> partition_text({"CPUExecutionProvider": 3, "CUDAExecutionProvider": 120})
    'CUDAExecutionProvider 120, CPUExecutionProvider 3'
    """
    return ", ".join(f"{name} {count}" for name, count in sorted(nodes.items(), key=lambda each: (-each[1], each[0])))


def _node_events(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of executed nodes, in the order of time."""
    found = [
        event
        for event in events
        if event.get("cat") == "Node"
        and str(event.get("name", "")).endswith(_SUFFIX)
        and isinstance(event.get("args"), dict)
        and all(isinstance(event.get(field), int | float) for field in ("ts", "dur"))
    ]
    return sorted(found, key=lambda event: event["ts"])


def _node(event: Mapping[str, Any]) -> _Node:
    args = event["args"]
    name = str(event["name"]).removesuffix(_SUFFIX)
    operator, provider = str(args.get("op_name", "")), str(args.get("provider", ""))
    return _Node(name or operator, operator, provider, str(args.get("node_index", "")))


def _end_of_first_inference(events: Iterable[Mapping[str, Any]]) -> float:
    ends = [
        event["ts"] + event["dur"]
        for event in events
        if event.get("cat") == "Session"
        and event.get("name") == "model_run"
        and all(isinstance(event.get(field), int | float) for field in ("ts", "dur"))
    ]
    return float(min(ends, default=0))
