from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from backbench.controller.analysis.graph import analyse
from backbench.domain.errors import InvalidArgument, InvalidModel

F32, F16, I8, U8, I32 = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32,
)
Make = Callable[..., onnx.ModelProto]
PADDED = {"pads": [1, 1, 1, 1]}


def test_a_convolution_multiplies_every_place_with_its_kernel(make: Make) -> None:
    model = make([("Conv", "image w", "y", {"strides": [2, 2], **PADDED})], weights={"w": ((8, 3, 3, 3), F32)})
    assert analyse(model).macs == 8 * 16 * 16 * 3 * 9


def test_groups_divide_a_convolutions_work_and_are_told_apart(make: Make) -> None:
    nodes = [
        ("Conv", "image w", "a", PADDED),
        ("Conv", "a d", "b", {"group": 8, **PADDED}),
        ("Conv", "b g", "y", {"group": 2, **PADDED}),
    ]
    weights = {"w": ((8, 3, 3, 3), F32), "d": ((8, 1, 3, 3), F32), "g": ((8, 4, 3, 3), F32)}
    analysis = analyse(make(nodes, weights=weights))
    places = 32 * 32 * 9
    assert [each.macs for each in analysis.operators] == [places * 24, places * 8, places * 32]
    assert [each.group for each in analysis.operators] == ["dense", "depthwise", "grouped"]
    assert analysis.depthwise_share == pytest.approx(8 / 64)
    assert analysis.grouped_share == pytest.approx(32 / 64)


def test_a_transposed_convolution_multiplies_every_place_of_its_input(make: Make) -> None:
    model = make([("ConvTranspose", "image w", "y", {"strides": [2, 2]})], weights={"w": ((3, 5, 2, 2), F32)})
    assert analyse(model).macs == 3 * 32 * 32 * 5 * 4


@pytest.mark.parametrize(("weights", "transposed"), [((3072, 10), 0), ((10, 3072), 1)])
def test_a_gemm_multiplies_rows_with_columns(make: Make, weights: tuple[int, int], transposed: int) -> None:
    nodes = [("Flatten", "image", "a", {}), ("Gemm", "a w b", "y", {"transB": transposed})]
    assert analyse(make(nodes, weights={"w": (weights, F32), "b": ((10,), F32)})).macs == 30720


def test_products_of_two_activations_count(make: Make) -> None:
    nodes = [("Transpose", "image", "t", {"perm": [0, 1, 3, 2]}), ("MatMul", "image t", "y", {})]
    assert analyse(make(nodes, image=(2, 3, 16, 20))).macs == 2 * 3 * 16 * 16 * 20


def test_an_attention_operator_counts_both_of_its_products(make: Make) -> None:
    model = make([("Attention", "image image image", "y", {})], image=(1, 3, 16, 8))
    model.opset_import[0].version = 23
    assert analyse(model).macs == 2 * 3 * 16 * 16 * 8


def test_quantised_convolutions_and_products_count_as_much_as_the_others(make: Make) -> None:
    nodes = [
        ("QuantizeLinear", "image s z", "q", {}),
        ("ConvInteger", "q w z", "a", PADDED),
        ("Cast", "a", "y", {"to": F32}),
    ]
    weights = {"s": ((), F32), "z": ((), U8), "w": ((8, 3, 3, 3), I8)}
    assert analyse(make(nodes, weights=weights)).macs == 8 * 32 * 32 * 27


def test_everything_else_is_listed_but_not_counted(make: Make) -> None:
    analysis = analyse(make([("Relu", "image", "a", {}), ("MaxPool", "a", "y", {"kernel_shape": [2, 2]})]))
    assert analysis.macs == 0
    assert [(each.op_type, each.macs, each.counted) for each in analysis.operators] == [
        ("Relu", None, False),
        ("MaxPool", None, False),
    ]
    assert analysis.histogram == {"Relu": 1, "MaxPool": 1}


def test_with_an_operator_that_nobody_knows_there_is_no_sum(make: Make) -> None:
    nodes: list[tuple[str, str, str, dict[str, Any]]] = [
        ("Conv", "image w", "a", PADDED),
        ("FusedThing", "a", "y", {"domain": "com.example"}),
    ]
    model = make(nodes, weights={"w": ((8, 3, 3, 3), F32)})
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    analysis = analyse(model)
    assert analysis.macs is None
    assert analysis.operators[0].macs == 8 * 32 * 32 * 27
    assert (analysis.traffic.unfused_bytes, analysis.activation_peak_bytes) == (None, None)
    assert analysis.domains == {"ai.onnx": 20, "com.example": 1}
    assert "com.example.FusedThing" in [each.op_type for each in analysis.operators]


def test_parameters_are_stored_numbers_without_literals_scales_and_sizes(make: Make) -> None:
    nodes = [
        ("DequantizeLinear", "w s z", "wf", {"axis": 0}),
        ("DequantizeLinear", "b s zb", "bf", {"axis": 0}),
        ("Conv", "image wf bf", "a", PADDED),
        ("Mul", "a literal", "c", {}),
        ("Mul", "c gamma", "d", {}),
        ("Reshape", "d to", "y", {}),
    ]
    weights = {
        "w": ((8, 3, 3, 3), I8),
        "s": ((8,), F32),
        "z": ((8,), I8),
        "zb": ((8,), I32),
        "b": ((8,), I32),
        "literal": ((), F32),
        "gamma": ((8, 1, 1), F16),
    }
    model = make(nodes, weights=weights, constants={"to": [1, -1]})
    analysis = analyse(model)
    assert analysis.parameters == 8 * 27 + 8 + 8
    assert analysis.weight_bytes == 8 * 27 + 8 * 4 + 8 * 2
    assert analysis.precision == "int8"


@pytest.mark.parametrize(("kind", "precision", "width"), [(F32, "fp32", 4), (F16, "fp16", 2)])
def test_the_precision_is_that_of_most_parameters(make: Make, kind: int, precision: str, width: int) -> None:
    nodes = [("Cast", "image", "x", {"to": kind}), ("Conv", "x w", "a", PADDED), ("Cast", "a", "y", {"to": F32})]
    analysis = analyse(make(nodes, weights={"w": ((8, 3, 3, 3), kind)}))
    assert (analysis.precision, analysis.weight_bytes) == (precision, 8 * 27 * width)


def test_a_graph_without_a_fixed_size_is_refused_in_one_line(make: Make) -> None:
    with pytest.raises(InvalidArgument, match="no fixed size") as refused:
        analyse(make([("Relu", "image", "y", {})], image=("batch", 3, 32, 32)))
    assert "\n" not in refused.value.message


def test_nodes_that_a_converter_left_out_of_order_are_sorted(make: Make) -> None:
    nodes = [("Conv", "x w", "y", PADDED), ("Cast", "image", "x", {"to": F32})]
    analysis = analyse(make(nodes, weights={"w": ((8, 3, 3, 3), F32)}))
    assert [each.op_type for each in analysis.operators] == ["Cast", "Conv"]
    assert analysis.macs == 8 * 32 * 32 * 27
    assert analysis.outputs[0].context == "local"


def test_nodes_that_wait_for_each_other_are_refused(make: Make) -> None:
    with pytest.raises(InvalidModel, match="wait for each other"):
        analyse(make([("Add", "image b", "a", {}), ("Relu", "a", "b", {}), ("Relu", "b", "y", {})]))
