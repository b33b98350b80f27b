"""The backends of an NVIDIA GPU: it stands on a real agent, the real libraries and a real GPU; skipped without one."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.gpu
BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt")
BUILDING = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt")
WITH_EVENTS = ("tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize("name", BACKENDS)
def test_the_outputs_are_those_of_onnx_runtime_on_the_cpu(gpu: Any, name: str) -> None:
    gpu.backend(name)
    document = gpu.run(name, layers=True)
    assert (document["state"], document["failure"]) == ("done", None)
    assert document["outputs"]["passed"]
    assert document["frames"]["completed"] == 300
    assert document["engine"]["fallback"] is None
    assert document["memory_mb"]["accelerator"]["cuda.used_delta"]["peak"] > 0
    rows = gpu.store.layers(document["run_id"])
    assert sum(row["mean_ns"] for row in rows) > 0


@pytest.mark.parametrize("name", WITH_EVENTS)
def test_copies_and_computing_are_timed_on_the_device_and_fit_into_the_frame(gpu: Any, name: str) -> None:
    gpu.backend(name)
    document = gpu.run(name)
    latency = document["latency_ms"]
    parts = [latency[part]["mean"] for part in ("host_to_device", "compute", "device_to_host")]
    assert min(parts) > 0
    assert sum(parts) + latency["host_gap"]["mean"] == pytest.approx(latency["service"]["mean"], rel=1e-6)
    assert latency["host_gap"]["mean"] > 0


@pytest.mark.parametrize("name", BUILDING)
def test_a_second_run_finds_the_engine_of_the_first_and_another_size_does_not(gpu: Any, name: str) -> None:
    gpu.backend(name)
    gpu.run(name, size="192")
    again, other = gpu.run(name, size="192"), gpu.run(name, size="160")
    assert again["engine"]["cached"] is True
    assert other["engine"]["cached"] is False
    assert again["engine"]["digest"] != other["engine"]["digest"]


@pytest.mark.parametrize("name", BUILDING)
def test_half_precision_is_chosen_by_the_backend_or_converted_and_right_either_way(gpu: Any, name: str) -> None:
    backend = gpu.backend(name)
    document = gpu.run(name, precision="fp16")
    by_backend = "fp16" in backend.engine_precisions
    assert document["engine"]["precision"] == ("fp16" if by_backend else "as-model")
    assert document["model"]["precision"] == ("fp32" if by_backend else "fp16")
    assert document["outputs"]["passed"]


@pytest.mark.parametrize("name", WITH_EVENTS)
def test_a_cuda_graph_gives_the_same_outputs_and_is_in_the_contract(gpu: Any, name: str) -> None:
    gpu.backend(name)
    plain, graph = gpu.run(name), gpu.run(name, cuda_graph=True)
    assert graph["outputs"]["passed"]
    assert plain["engine"]["graph"] == "no"
    assert graph["engine"]["graph"] != "no"
    assert plain["contract"]["hash"] != graph["contract"]["hash"]


def test_too_little_device_memory_is_a_typed_failure_and_the_agent_lives_on(gpu: Any) -> None:
    gpu.backend("onnxruntime-cuda")
    failed = gpu.run("onnxruntime-cuda", backend_option=("gpu-mem-limit=1MB",), memory_pass=False)
    assert failed["state"] == "failed"
    assert "\n" not in failed["failure"]["message"]
    assert gpu.run("onnxruntime-cuda", memory_pass=False)["state"] == "done"
