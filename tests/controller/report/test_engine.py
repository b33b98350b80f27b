"""A run's engine, layers and accelerator memory in its document, from reports as agents send them; no GPU took part."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console
from tests.controller.report.test_measurement import block, document, printed, report

from backbench.controller.report.layers import check_layers, layers_answer, layers_table
from backbench.domain.errors import InvalidArgument
from backbench.domain.event import LaunchReport, Layer, MemoryPhase
from backbench.domain.run import BackendSpec, LaunchPurpose, Scenario

BUILD = {
    "tensorrt": "TensorRT 10.3.0", "gpu": "Orin", "compute_capability": "8.7", "precision": "fp16",
    "workspace": "default", "engine": "e" * 64, "backend": "tensorrt", "cached": "no",
}  # fmt: skip
BUILT = {"build_ns": 41_500_000_000, "engine_bytes": 51_200_000, "layer_count": 126}
TRT = {
    "backend": "tensorrt", "backend_version": "10.3.0", "providers": "TensorRT", "cuda_graph": "no",
    "synchronisation": "spins until the stream is done", "timing_cache": "begun", "built_for": "1x3x224x224",
    "profile": "none: a fixed shape", "precision_policy": "flags FP16",
}  # fmt: skip
CUDA = {"backend": "onnxruntime-cuda", "backend_version": "1.31.1", "providers": "CUDAExecutionProvider"}


def timed(facts: Mapping[str, str]) -> LaunchReport:
    return LaunchReport(0, LaunchPurpose.TIMED, facts=facts, counters=report().counters)


def made(*launches: LaunchReport, backend: BackendSpec | None = None) -> dict[str, Any]:
    return document(Scenario(), [block()], launches, backend=backend or BackendSpec("tensorrt", precision="fp16"))


def build(**facts: str) -> LaunchReport:
    return LaunchReport(0, LaunchPurpose.BUILD, facts={**BUILD, **facts}, counters=BUILT)


def test_what_was_built_is_in_the_document_and_how_long_it_took_is_in_no_contract() -> None:
    first = made(build(), timed(TRT))
    engine = first["engine"]
    assert (engine["cached"], engine["build_s"], engine["size_mb"]) == (False, 41.5, 51.2)
    assert (engine["precision"], engine["precision_policy"], engine["graph"]) == ("fp16", "flags FP16", "no")
    assert engine["key"] == {
        "tensorrt": "TensorRT 10.3.0", "gpu": "Orin", "compute_capability": "8.7", "precision": "fp16",
        "workspace": "default",
    }  # fmt: skip
    assert (first["backend"]["version"], first["contract"]["engine_precision"]) == ("10.3.0", "fp16")
    again = made(build(cached="yes"), timed({**TRT, "timing_cache": "used", "built_for": "1x3x320x320"}))
    assert again["engine"]["cached"] is True
    assert again["contract"] == first["contract"]
    asked = BackendSpec("tensorrt", precision="fp16", options={"workspace": "2GB"})
    other = made(build(), timed(TRT), backend=asked)
    assert other["contract"]["hash"] != first["contract"]["hash"]
    words = printed(first)
    assert "resnet50 224x224 fp16 on lab1, tensorrt 10.3.0" in words
    assert "built in 41.5 s, 51.2 MB, 126 layers before fusing, fp16" in words
    assert "from the cache, built in 41.5 s" in printed(again)


def test_a_run_that_failed_while_building_has_no_contract_made_of_the_build_s_facts() -> None:
    found = document(Scenario(), [], [build()], backend=BackendSpec("tensorrt"))
    assert "gpu" not in found["contract"]
    assert found["engine"]["key"]["gpu"] == "Orin"


def test_a_backend_that_neither_builds_nor_shares_has_no_engine() -> None:
    found = made(report(), backend=BackendSpec())
    assert (found["engine"], found["layers"]) == (None, None)
    assert "engine" not in printed(found)


def test_who_ran_how_many_nodes_is_told_and_a_fallback_is_a_finding_that_changes_the_contract() -> None:
    whole = {**CUDA, "partition": "CUDAExecutionProvider 122", "fallback": "not allowed"}
    part = {
        **CUDA,
        "partition": "CUDAExecutionProvider 119, CPUExecutionProvider 3",
        "fallback": "CPUExecutionProvider 3",
    }
    asked = BackendSpec("onnxruntime-cuda", allow_fallback=True)
    alone, shared = made(timed(whole), backend=asked), made(timed(part), backend=asked)
    assert alone["engine"]["partition"] == {"CUDAExecutionProvider": 122}
    assert (alone["engine"]["fallback"], alone["engine"]["cached"], alone["engine"]["build_s"]) == (None, None, None)
    assert shared["engine"]["partition"] == {"CUDAExecutionProvider": 119, "CPUExecutionProvider": 3}
    assert "fallback_used" not in [reason["code"] for reason in alone["validity"]["reasons"]]
    (told,) = [reason["detail"] for reason in shared["validity"]["reasons"] if reason["code"] == "fallback_used"]
    assert told.endswith("as --allow-fallback allows: CPUExecutionProvider 3")
    assert (shared["contract"].get("fallback"), alone["contract"].get("fallback")) == (True, None)
    assert "CPUExecutionProvider 3 nodes; fell back: CPUExecutionProvider 3" in " ".join(printed(shared).split())
    assert made(timed({**whole, "partition": "unknown"}), backend=asked)["engine"]["partition"] is None


def test_layers_that_a_dla_core_leaves_to_the_gpu_are_listed() -> None:
    facts = {**TRT, "dla": "0", "dla_fallback": "Softmax_12 (SOFTMAX)", "providers": "DLA,TensorRT"}
    counted = LaunchReport(
        0, LaunchPurpose.BUILD, facts=BUILD, counters={**BUILT, "dla_layer_count": 125, "dla_fallback_layer_count": 1}
    )
    found = made(counted, timed(facts))
    assert found["engine"]["dla"] == {
        "core": "0", "layers": 125, "fallback_layers": 1, "fallback": "Softmax_12 (SOFTMAX)",
    }  # fmt: skip
    assert "the GPU ran 1 layer that the DLA core cannot: Softmax_12 (SOFTMAX)" in " ".join(printed(found).split())
    assert "dla_fallback" not in found["contract"]


def test_accelerator_memory_has_each_figure_with_what_it_is_and_adds_none_up() -> None:
    phases = (
        MemoryPhase("load", 300_000_000, 290_000_000, {"cuda.used_delta": 180_000_000, "engine.file": 51_200_000}),
        MemoryPhase(
            "steady", 310_000_000, 300_000_000, {"cuda.used_delta": 210_000_000, "tensorrt.device_memory": 9_000_000}
        ),
        MemoryPhase("after_free", 310_000_000, 200_000_000, {"cuda.used_delta": 999_000_000}),
    )  # fmt: skip
    found = made(build(), LaunchReport(0, LaunchPurpose.MEMORY, memory=phases), timed(TRT))
    accelerator = found["memory_mb"]["accelerator"]
    assert {name: row["peak"] for name, row in accelerator.items()} == {
        "cuda.used_delta": 210.0, "tensorrt.device_memory": 9.0, "engine.file": 51.2,
    }  # fmt: skip
    assert all(row["definition"] for row in accelerator.values())
    assert found["memory_mb"]["phases"]["load"]["figures"]["cuda.used_delta"] == 180.0
    assert found["engine"]["device_memory_mb"] == 9.0
    assert found["memory_mb"]["peak"] == 310.0
    assert "210.0 MB on the device since before the engine" in " ".join(printed(found).split())
    plain = made(LaunchReport(0, LaunchPurpose.MEMORY, memory=(MemoryPhase("load", 1, 1),)), report())
    assert plain["memory_mb"]["accelerator"] is None


LAYERS = (
    Layer("conv1 + relu", "CaskConvolution", "TensorRT", 30_000, 20),
    Layer("x" * 200, "Softmax", "DLA", 60_000, 20),
    Layer("fc", "", "", 10_000, 20),
)


def profiled() -> dict[str, Any]:
    counters = {"inference_count": 20, "layer_count": 3}
    return made(build(), timed(TRT), LaunchReport(0, LaunchPurpose.LAYERS, counters=counters, layers=LAYERS))


def rows() -> list[dict[str, Any]]:
    return [
        {
            "index": place, "name": layer.name, "operator": layer.operator, "provider": layer.provider,
            "mean_ns": layer.mean_ns, "call_count": layer.call_count,
        }
        for place, layer in enumerate(LAYERS)
    ]  # fmt: skip


def test_layers_are_summed_up_in_the_document_and_told_slowest_first() -> None:
    found = profiled()
    assert found["layers"] == {
        "count": 3, "kept": 3, "inferences": 20, "total_ms": pytest.approx(0.1), "times": None,
        "engines": {
            "TensorRT": {"layers": 1, "ms": 0.03}, "DLA": {"layers": 1, "ms": 0.06}, "": {"layers": 1, "ms": 0.01},
        },
    }  # fmt: skip
    answer = layers_answer(found, rows(), 2)
    assert (answer["schema"], answer["run_id"]) == ("backbench.layers/1", found["run_id"])
    assert [(row["index"], row["engine"], row["share"]) for row in answer["layers"]] == [
        (1, "DLA", 0.6), (0, "TensorRT", 0.3),
    ]  # fmt: skip
    last = layers_answer(found, rows(), None)["layers"][-1]
    assert (last["name"], last["operator"], last["engine"]) == ("fc", None, None)
    assert "backbench layers" in printed(found)


def test_a_long_name_of_a_fused_layer_keeps_its_two_ends() -> None:
    console = Console(file=io.StringIO(), width=110, record=True)
    console.print(layers_table(layers_answer(profiled(), rows(), 2)))
    text = console.export_text()
    assert "3 layers, 0.100 ms together; the slowest 2" in text
    assert f"{'x' * 28}...{'x' * 28}" in text
    assert "under a profiler" in text


def test_a_run_without_layers_says_how_to_get_them_and_why_it_has_none() -> None:
    plain = made(build(), timed(TRT))
    with pytest.raises(InvalidArgument, match="--device lab1 --backend tensorrt --layers"):
        check_layers(plain)
    plain["log"] = [{"level": "warning", "text": "the layers pass gave nothing: no profiler here"}]
    with pytest.raises(InvalidArgument, match="has no layers; the layers pass gave nothing: no profiler here; they"):
        check_layers(plain)
    old = {name: part for name, part in plain.items() if name not in ("layers", "engine", "log")}
    with pytest.raises(InvalidArgument, match="has no layers; they take a pass"):
        check_layers(old)
    assert "resnet50" in printed(old | {"log": []})
    check_layers(profiled())
