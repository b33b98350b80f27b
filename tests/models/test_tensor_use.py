"""What a graph does with its initialisers: kinds, quantizers, and how many products make one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx.helper
import pytest

from backbench.models.random_weights import Kind
from backbench.models.tensor_use import TensorUses


def uses(*nodes: tuple[str, Sequence[str], str], **attributes: Any) -> TensorUses:
    """Of a graph of (operator, inputs, output); the attributes are the last node's."""
    made = [
        onnx.helper.make_node(kind, list(inputs), [output], **(attributes if place == len(nodes) - 1 else {}))
        for place, (kind, inputs, output) in enumerate(nodes)
    ]
    return TensorUses(onnx.helper.make_graph(made, "g", [], []))


def tensor(*dims: int) -> onnx.TensorProto:
    return onnx.TensorProto(name="t", data_type=onnx.TensorProto.FLOAT, dims=dims)


@pytest.mark.parametrize(
    ("operator", "inputs", "kind"),
    [
        ("Conv", ["x", "t"], "weight"),
        ("Conv", ["x", "w", "t"], "offset"),
        ("ConvTranspose", ["x", "t"], "weight"),
        ("Gemm", ["t", "x"], "weight"),
        ("Gemm", ["x", "t"], "weight"),
        ("Gemm", ["x", "w", "t"], "offset"),
        ("MatMul", ["t", "x"], "weight"),
        ("MatMul", ["x", "t"], "weight"),
        ("BatchNormalization", ["x", "t", "b", "m", "v"], "scale"),
        ("BatchNormalization", ["x", "s", "t", "m", "v"], "offset"),
        ("BatchNormalization", ["x", "s", "b", "t", "v"], "offset"),
        ("BatchNormalization", ["x", "s", "b", "m", "t"], "scale"),
        ("LayerNormalization", ["x", "t", "b"], "scale"),
        ("LayerNormalization", ["x", "s", "t"], "offset"),
        ("GroupNormalization", ["x", "t", "b"], "scale"),
        ("InstanceNormalization", ["x", "t", "b"], "scale"),
        ("Mul", ["t", "x"], "scale"),
        ("Mul", ["x", "t"], "scale"),
        ("Div", ["x", "t"], "scale"),
        ("Div", ["t", "x"], "offset"),
        ("Add", ["x", "t"], "offset"),
        ("Relu", ["x"], "offset"),
    ],
)
def test_the_place_in_an_operator_tells_what_a_tensor_is(operator: str, inputs: list[str], kind: Kind) -> None:
    assert uses((operator, inputs, "y")).kind("t") == kind


def test_a_tensor_is_what_its_first_use_makes_of_it() -> None:
    assert uses(("Mul", ["x", "t"], "y"), ("MatMul", ["y", "t"], "z")).kind("t") == "scale"


def test_a_weight_behind_quantizers_is_a_weight() -> None:
    both = uses(
        ("QuantizeLinear", ["t", "s", "z"], "q"), ("DequantizeLinear", ["q", "s", "z"], "d"), ("Conv", ["x", "d"], "y")
    )
    assert both.kind("t") == "weight"
    assert both.fan_in(tensor(8, 4, 3, 3)) == 36
    assert uses(("DequantizeLinear", ["t", "s", "z"], "d"), ("MatMul", ["x", "d"], "y")).kind("t") == "weight"


def test_quantizers_that_feed_themselves_do_not_hang_it() -> None:
    assert uses(("QuantizeLinear", ["t", "s"], "t")).kind("t") == "offset"


def test_a_weight_of_bytes_is_told_from_a_zero_point() -> None:
    of = uses(("DequantizeLinear", ["w", "s", "z"], "d"), ("Conv", ["x", "d"], "y"))
    assert [of.is_quantized_weight(name) for name in ("w", "s", "z", "x", "none")] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("QLinearConv", ["x", "xs", "xz", "w", "s", "wz", "ys", "yz", "b"]),
        ("QLinearMatMul", ["x", "xs", "xz", "w", "s", "wz", "ys", "yz"]),
        ("ConvInteger", ["x", "w"]),
        ("MatMulInteger", ["x", "w"]),
    ],
)
def test_the_weights_of_quantized_operators_are_found(operator: str, inputs: list[str]) -> None:
    of = uses((operator, inputs, "y"))
    assert [name for name in inputs if of.is_quantized_weight(name)] == ["w"]
    assert of.is_quantizer_setting("s") is ("s" in inputs)


def test_scales_and_zero_points_are_settings_wherever_else_they_are_used() -> None:
    of = uses(
        ("Mul", ["x", "s"], "a"), ("QuantizeLinear", ["a", "s", "z"], "q"), ("DequantizeLinear", ["q", "s2", "z2"], "d")
    )
    assert [of.is_quantizer_setting(name) for name in ("s", "z", "s2", "z2", "a", "q", "x")] == [True] * 4 + [False] * 3


@pytest.mark.parametrize(
    ("operator", "inputs", "dims", "attributes", "fan_in"),
    [
        ("Conv", ["x", "t"], (64, 3, 7, 7), {}, 147),
        ("Conv", ["x", "t"], (64, 1, 3, 3), {"group": 64}, 9),
        ("ConvTranspose", ["x", "t"], (64, 32, 2, 2), {}, 256),
        ("ConvTranspose", ["x", "t"], (64, 1, 2, 2), {"group": 64}, 4),
        ("Gemm", ["x", "t"], (10, 30), {}, 10),
        ("Gemm", ["x", "t"], (10, 30), {"transB": 1}, 30),
        ("Gemm", ["t", "x"], (10, 30), {}, 30),
        ("Gemm", ["t", "x"], (10, 30), {"transA": 1}, 10),
        ("MatMul", ["x", "t"], (10, 30), {}, 10),
        ("MatMul", ["x", "t"], (4, 10, 30), {}, 10),
        ("MatMul", ["x", "t"], (10,), {}, 10),
        ("MatMul", ["t", "x"], (10, 30), {}, 30),
    ],
)
def test_fan_in_is_the_products_of_one_number(
    operator: str, inputs: list[str], dims: tuple[int, ...], attributes: dict[str, int], fan_in: int
) -> None:
    assert uses((operator, inputs, "y"), **attributes).fan_in(tensor(*dims)) == fan_in


def test_a_tensor_that_nothing_uses_is_an_offset_of_fan_in_one() -> None:
    assert (uses(("Relu", ["x"], "y")).kind("t"), uses(("Relu", ["x"], "y")).fan_in(tensor(3, 4))) == ("offset", 1)
