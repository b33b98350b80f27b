"""Which operators compute in the lower precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx.helper as oh

from backbench.controller.export.precision import convert
from backbench.models.catalog import skeleton_path
from backbench.models.skeleton import materialise


def test_operators_left_in_float_are_named(graphs: Any, tmp_path: Path) -> None:
    made = graphs.cnn()
    made.graph.node[2].CopyFrom(oh.make_node("ConvTranspose", ["r0", "w1", "b1"], ["c1"], "inner", pads=[1] * 4))
    report = graphs.converted(made, tmp_path, "int8", "tensorrt")[1]
    assert report.coverage.float_operators == {"ConvTranspose": 1}
    assert report.coverage.float_operator_names == ("inner",)
    assert (report.coverage.mac_operator_count, report.coverage.converted_count) == (4, 3)


def test_what_onnx_runtime_executes_is_counted(graphs: Any, tmp_path: Path) -> None:
    executed = graphs.converted(graphs.cnn(), tmp_path, "int8", "cpu")[1].executed
    assert executed is not None
    assert executed.integer == {"QGemm": 1, "QLinearConv": 3}
    assert executed.float == {}
    assert {"QuantizeLinear", "DequantizeLinear", "HardSigmoid"} <= executed.other.keys()


def test_a_zoo_model_is_quantized_whole(tmp_path: Path) -> None:
    source = tmp_path / "mobilenet.onnx"
    materialise(skeleton_path("mobilenetv3_small_100"), source, batch=1, height=64, width=64)
    report = convert(source, tmp_path / "int8.onnx", "int8", "cpu")
    assert report.coverage.float_operators == {}
    assert report.coverage.mac_operator_count == report.coverage.converted_count > 40
    assert report.executed is not None
    assert sum(report.executed.integer.values()) == report.coverage.mac_operator_count
    assert report.size_bytes < report.source_size_bytes / 3
    half = convert(source, tmp_path / "fp16.onnx", "fp16", "cpu").outputs[0]
    assert half.sqnr_db is not None
    assert half.sqnr_db > 30
