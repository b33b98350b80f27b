"""Profiles of ONNX Runtime, read back: real ones of the real wheel for the CPU, and pieces that others would write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.onnxruntime import OnnxRuntimeCpu
from backbench.agent.backends.ort_profile import layers_of, partition_of, read_profile
from backbench.domain.event import Layer

SIZE = 16


def event(name: str, ts: int, dur: int, cat: str = "Node", **args: Any) -> dict[str, Any]:
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "ph": "X", "pid": 1, "tid": 1, "args": args}


def node(name: str, ts: int, dur: int, operator: str = "Conv", provider: str = "CPU", index: str = "1") -> Any:
    return event(f"{name}_kernel_time", ts, dur, op_name=operator, provider=provider, node_index=index)


def test_a_profiled_session_tells_its_nodes_without_the_first_inference(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with OnnxRuntimeCpu().open(OpenRequest(str(model_path), (1, 3, SIZE, SIZE), 1, False, profiled=True)) as engine:
        engine.bind([np.ones((1, 3, SIZE, SIZE), np.float32)])
        for _ in range(4):
            engine.infer(0)
        layers = engine.layers()
    assert {"Conv", "GlobalAveragePool"} <= {layer.operator for layer in layers}
    assert {layer.provider for layer in layers} == {"CPUExecutionProvider"}
    assert {layer.call_count for layer in layers} == {3}
    assert all(layer.name and layer.mean_ns >= 0 for layer in layers)
    assert not list(tmp_path.glob("nodes*"))


def test_means_are_in_nanoseconds_and_in_the_order_of_execution() -> None:
    events = [
        event("model_run", 0, 100, "Session"),
        node("second", 50, 9000, index="2"),
        node("first", 10, 9000),
        event("model_run", 200, 100, "Session"),
        node("second", 260, 5, index="2"),
        node("first", 210, 10),
        node("first", 310, 11),
    ]
    assert layers_of(events) == [Layer("first", "Conv", "CPU", 10_500, 2), Layer("second", "Conv", "CPU", 5000, 1)]


def test_a_partition_counts_nodes_and_not_calls() -> None:
    events = [node("a", 0, 1, index="1"), node("a", 9, 1, index="1"), node("", 3, 1, provider="GPU", index="2")]
    assert partition_of(events) == {"CPU": 1, "GPU": 1}


@pytest.mark.parametrize(
    "odd",
    [
        {"cat": "Node"},
        {"cat": "Node", "name": "a_kernel_time"},
        {"cat": "Node", "name": "a_kernel_time", "ts": "1", "dur": 2, "args": {}},
        {"cat": "Node", "name": "a_kernel_time", "ts": 1, "dur": 2, "args": None},
        {"cat": "Node", "name": "a_fence_before", "ts": 1, "dur": 2, "args": {}},
        {"cat": "Session", "name": "model_run"},
    ],
)
def test_events_of_another_form_are_passed_over(odd: dict[str, Any]) -> None:
    assert layers_of([odd, node("a", 10, 1)]) == [Layer("a", "Conv", "CPU", 1000, 1)]


def test_a_file_that_is_no_profile_is_refused_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    for text, words in (('[{"cat": "Node"', "Expecting"), (json.dumps({"cat": "Node"}), "not a list")):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_profile(path)
        assert not path.exists()


def test_a_session_that_was_not_profiled_has_no_layers(model_path: Path) -> None:
    with (
        OnnxRuntimeCpu().open(OpenRequest(str(model_path), (1, 3, SIZE, SIZE), 1, False)) as engine,
        pytest.raises(WorkerFailure, match="leave --layers away"),
    ):
        engine.layers()
