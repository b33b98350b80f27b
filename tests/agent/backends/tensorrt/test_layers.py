"""Times and facts of layers, and the log's words. Stands on nothing of TensorRT: on texts in its forms."""

from __future__ import annotations

import json

import pytest

from backbench.agent.backends.tensorrt.layers import LayerFacts, LayerTimes, layer_facts
from backbench.agent.backends.tensorrt.logger import LogLines
from backbench.domain.event import Layer
from backbench.domain.run import FailureReason


@pytest.mark.parametrize(
    ("document", "known"),
    [
        ({"Layers": ["conv", "relu"], "Bindings": ["x", "y"]}, {"conv": LayerFacts(), "relu": LayerFacts()}),
        (
            {"Layers": [{"Name": "conv", "LayerType": "CaskConvolution", "Inputs": []}], "Bindings": ["x"]},
            {"conv": LayerFacts("CaskConvolution")},
        ),
        (
            {"Layers": [{"Name": "{ForeignNode[a...b]}", "LayerType": "DLA"}], "I/O Tensors": [{"Name": "x"}]},
            {"{ForeignNode[a...b]}": LayerFacts("DLA", "DLA")},
        ),
        ({"Layers": [{"Name": "gemm"}, {"LayerType": "kgen"}, 7]}, {"gemm": LayerFacts()}),
        ({"Layers": "none"}, {}),
        ([], {}),
    ],
)
def test_the_inspectors_json_is_read_in_the_forms_of_all_versions(
    document: object, known: dict[str, LayerFacts]
) -> None:
    assert layer_facts(json.dumps(document)) == known


@pytest.mark.parametrize("text", ["", "not json", '{"Layers": [', '"\x00"'])
def test_what_is_no_json_tells_of_no_layers(text: str) -> None:
    assert layer_facts(text) == {}


def test_a_layer_that_the_inspector_does_not_know_keeps_its_time() -> None:
    times = LayerTimes()
    for ms in (1.0, 2.0):
        times.take("unknown", ms)
        times.take("conv", ms / 2)
    assert times.layers({"conv": LayerFacts("CaskConvolution")}) == (
        Layer("unknown", "", "TensorRT", 1_500_000, 2),
        Layer("conv", "CaskConvolution", "TensorRT", 750_000, 2),
    )


def test_the_words_of_a_log_are_its_errors_in_one_short_line() -> None:
    lines = LogLines()
    assert lines.words() == "TensorRT says nothing of why"
    lines.take("WARNING", "a warning")
    lines.take("VERBOSE", "for its developers")
    assert lines.words() == "a warning"
    lines.take("ERROR", "the first\ncause. ")
    lines.take("INTERNAL_ERROR", "what it led to")
    lines.take("ERROR", "the first\ncause. ")
    assert lines.words() == "the first cause.; what it led to"
    for number in range(100):
        lines.take("ERROR", f"one more {number}")
    assert len(lines.words()) <= 301
    assert len(lines.lines("ERROR")) == 20
    lines.clear()
    assert lines.lines("ERROR") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 17179869184 bytes.)", FailureReason.OUT_OF_MEMORY),
        ("Error Code 1: Cuda Runtime (out of memory)", FailureReason.OUT_OF_MEMORY),
        ("no tactics to implement the operation within workspace limit", FailureReason.ENGINE_BUILD_FAILED),
    ],
)
def test_a_lack_of_memory_goes_before_another_reason(line: str, reason: FailureReason) -> None:
    lines = LogLines()
    lines.take("ERROR", line)
    failure = lines.failure("it does not work", FailureReason.ENGINE_BUILD_FAILED, "do something")
    assert failure.reason is reason
    assert str(failure).startswith(f"it does not work: {line}")
