"""What is in an fp16 or int8 graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import pytest

from backbench.controller.export.precision import convert
from backbench.controller.export.quantization import has_attention
from backbench.domain.errors import InvalidModel


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_for_tensorrt_all_is_signed_around_zero_and_in_the_default_domain(
    graphs: Any, kind: str, tmp_path: Path
) -> None:
    result, report = graphs.converted(getattr(graphs, kind)(), tmp_path, "int8", "tensorrt")
    pairs = graphs.quantizers(result)
    assert pairs
    for _, scale, zero in pairs:
        assert zero.data_type == onnx.TensorProto.INT8
        assert not onh.to_array(zero).any()
        assert (onh.to_array(scale) > 0).all()
    assert {node.domain for node in result.graph.node} == {""}
    assert {entry.domain for entry in result.opset_import} <= {"", "ai.onnx"}
    assert not any(tensor.data_type == onnx.TensorProto.INT32 for tensor in result.graph.initializer)
    assert report.scheme.startswith("QDQ S8S8 symmetric, per channel")
    assert report.executed is None


def test_for_tensorrt_weights_stay_fp32_before_their_own_pair(graphs: Any, tmp_path: Path) -> None:
    result, _ = graphs.converted(graphs.cnn(), tmp_path, "int8", "tensorrt")
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    kernels = {
        node.input[0]
        for node, *_ in graphs.quantizers(result)
        if node.op_type == "QuantizeLinear" and node.input[0] in tensors
    }
    assert kernels == {"w0", "w1", "w2", "w3"}
    assert all(tensors[name].data_type == onnx.TensorProto.FLOAT for name in kernels)


def test_for_a_cpu_activations_are_unsigned_and_weights_signed_per_channel(graphs: Any, tmp_path: Path) -> None:
    result, report = graphs.converted(graphs.cnn(), tmp_path, "int8", "cpu")
    tensors = {tensor.name for tensor in result.graph.initializer}
    activations = [pair for pair in graphs.quantizers(result) if pair[0].op_type == "QuantizeLinear"]
    kernels = [pair for pair in graphs.quantizers(result) if pair[0].input[0] in tensors and pair[0].input[0][0] == "w"]
    assert {zero.data_type for _, _, zero in activations} == {onnx.TensorProto.UINT8}
    assert {zero.data_type for _, _, zero in kernels} == {onnx.TensorProto.INT8}
    assert sorted(onh.to_array(scale).size for _, scale, _ in kernels) == [10, 16, 16, 32]
    assert report.scheme == "QDQ U8S8 per channel, MinMax, all operators"


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_in_a_transformer_only_what_products_take_and_give_is_quantized(
    graphs: Any, target: Any, tmp_path: Path
) -> None:
    made = graphs.transformer()
    result, report = graphs.converted(made, tmp_path, "int8", target)
    products = [node for node in made.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    taken = {name for node in products for name in node.input[:2]}
    given = {name for node in products for name in node.output}
    quantized = {node.input[0] for node, *_ in graphs.quantizers(result) if node.op_type == "QuantizeLinear"}
    assert {name.removesuffix("_QuantizeLinear_Input") for name in quantized} <= taken | given
    assert ("shares" in quantized, "y" in quantized) == (True, False)
    assert report.scheme.endswith("Conv/MatMul/Gemm")
    assert (report.coverage.mac_operator_count, report.coverage.converted_count) == (7, 7)


def test_attention_is_told_from_a_softmax_over_classes(graphs: Any) -> None:
    assert has_attention(graphs.transformer())
    classifier = graphs.cnn()
    classifier.graph.node[-1].output[0] = "before"
    classifier.graph.node.append(oh.make_node("Softmax", ["before"], ["logits"], "classes"))
    assert not has_attention(classifier)


def test_half_precision_keeps_inputs_and_outputs_and_halves_the_file(graphs: Any, tmp_path: Path) -> None:
    result, report = graphs.converted(graphs.cnn(), tmp_path, "fp16", "cpu")
    ends = [*result.graph.input, *result.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {onnx.TensorProto.FLOAT}
    assert {tensor.data_type for tensor in result.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert (report.target, report.calibration_image_count, report.executed) == ("any", None, None)
    assert report.size_bytes == (tmp_path / "result.onnx").stat().st_size < report.source_size_bytes * 0.7
    assert (report.coverage.mac_operator_count, report.coverage.converted_count) == (4, 4)
    assert report.out_of_range is not None
    assert (report.out_of_range.large_count, report.out_of_range.activation_names) == (0, ())


def test_operators_without_half_precision_stay_in_fp32_between_casts(graphs: Any, tmp_path: Path) -> None:
    made = graphs.cnn()
    made.graph.initializer.append(onh.from_array(np.zeros((), np.float32), "nothing"))
    made.graph.node[1].CopyFrom(oh.make_node("Max", ["c0", "nothing"], ["r0"], "relu"))
    result, report = graphs.converted(made, tmp_path, "fp16", "cpu")
    makers = {name: node.op_type for node in result.graph.node for name in node.output}
    largest = next(node for node in result.graph.node if node.op_type == "Max")
    assert makers[largest.input[0]] == "Cast"
    assert report.coverage.float_operators == {}
    assert report.outputs[0].sqnr_db > 40


def test_weights_that_half_precision_cannot_hold_are_counted(graphs: Any, tmp_path: Path) -> None:
    made = graphs.cnn()
    values = onh.to_array(made.graph.initializer[0]).copy()
    values[0, 0, 0] = [1e5, -1e6, 1e-9]
    made.graph.initializer[0].CopyFrom(onh.from_array(values, "w0"))
    report = graphs.converted(made, tmp_path, "fp16", "cpu")[1]
    assert report.out_of_range is not None
    assert (report.out_of_range.large_count, report.out_of_range.small_count) == (2, 1)


def test_an_fp16_model_that_overflows_gets_no_grade_though_a_cpu_does_not_show_it(graphs: Any, tmp_path: Path) -> None:
    report = graphs.converted(graphs.with_first_weights(6e4), tmp_path, "fp16", "cpu")[1]
    (output,) = report.outputs
    assert report.out_of_range is not None
    assert {"c0", "r0"} <= set(report.out_of_range.activation_names)
    assert (output.sqnr_db, output.cosine, output.max_relative_error, output.top1_agreement) == (None,) * 4


def test_activations_that_are_not_finite_cannot_be_quantized(graphs: Any, tmp_path: Path) -> None:
    source = graphs.saved(graphs.with_first_weights(1e38), tmp_path)
    with pytest.raises(InvalidModel, match=r"source\.onnx: the activation .* is not finite"):
        convert(source, tmp_path / "result.onnx", "int8", "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]
