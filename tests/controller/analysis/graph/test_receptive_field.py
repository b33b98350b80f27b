from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import pytest

from backbench.controller.analysis.graph import Field, OutputReach, analyse

F32 = onnx.TensorProto.FLOAT
Make = Callable[..., onnx.ModelProto]
Node = tuple[str, str, str, Mapping[str, Any]]

CONV3: Node = ("Conv", "image w", "a", {"pads": [1, 1, 1, 1]})
WEIGHTS = {"w": ((8, 3, 3, 3), F32), "v": ((8, 8, 3, 3), F32)}


@pytest.fixture
def reach(make: Make) -> Callable[..., OutputReach]:
    """What the one output of a graph sees."""

    def reached(nodes: Sequence[Node], layouts: Mapping[str, str] | None = None, **rest: Any) -> OutputReach:
        (output,) = analyse(make(nodes, **{"weights": WEIGHTS, **rest}), layouts=layouts).outputs
        return output

    return reached


def field(output: OutputReach) -> Field:
    assert output.map is not None
    assert output.map.field is not None
    return output.map.field


def same(value: float) -> tuple[float, float]:
    return value, value


@pytest.mark.parametrize(
    ("attributes", "width", "stride", "offset"),
    [
        ({"pads": [1, 1, 1, 1]}, 3, 1, 0),
        ({"strides": [2, 2], "pads": [1, 1, 1, 1]}, 3, 2, 0),
        ({"strides": [2, 2]}, 3, 2, 1),
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, 5, 1, 0),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, 3, 2, 1),
        ({"strides": [2, 2], "auto_pad": "SAME_LOWER"}, 3, 2, 0),
        ({"auto_pad": "VALID"}, 3, 1, 1),
    ],
)
def test_a_convolution_widens_by_its_kernel(
    reach: Callable[..., OutputReach], attributes: dict[str, Any], width: int, stride: int, offset: float
) -> None:
    output = reach([("Conv", "image w", "y", attributes)])
    assert output.context == "local"
    assert field(output) == Field((width, width), same(stride), same(offset))


def test_height_and_width_are_walked_on_their_own(reach: Callable[..., OutputReach]) -> None:
    attributes = {"strides": [1, 2], "dilations": [3, 1], "pads": [3, 0, 3, 0]}
    assert field(reach([("Conv", "image w", "y", attributes)])) == Field((7, 3), (1.0, 2.0), (0.0, 1.0))


@pytest.mark.parametrize("pooling", ["MaxPool", "AveragePool"])
def test_poolings_widen_as_convolutions_do_at_the_stride_they_are_at(
    reach: Callable[..., OutputReach], pooling: str
) -> None:
    nodes = [
        ("Conv", "image w", "a", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        (pooling, "a", "y", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ]
    assert field(reach(nodes)) == Field((5, 5), same(4), same(1))


def test_where_branches_meet_both_are_seen(reach: Callable[..., OutputReach]) -> None:
    wide: Node = ("Conv", "a v", "b", {"pads": [1, 1, 1, 1]})
    assert field(reach([CONV3, wide, ("Add", "a b", "y", {})])).receptive_px == (5, 5)
    assert field(reach([CONV3, wide, ("Concat", "b a", "y", {"axis": 1})])).receptive_px == (5, 5)


def test_branches_that_look_aside_widen_and_shift_the_field(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        ("Conv", "image w", "a", {"pads": [2, 1, 0, 1]}),
        ("Conv", "image w", "b", {"pads": [1, 1, 1, 1]}),
        ("Add", "a b", "y", {}),
    ]
    assert field(reach(nodes)) == Field((4, 3), same(1), (-0.5, 0.0))


def test_padding_and_cropping_shift(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        ("Pad", "image pads", "a", {}),
        ("Slice", "a from to axes steps", "y", {}),
    ]
    constants = {
        "pads": [0, 0, 2, 0, 0, 0, 2, 0],
        "from": [1, 5],
        "to": [2**31, -1],
        "axes": [2, 3],
        "steps": [2, 1],
    }
    assert field(reach(nodes, constants=constants)) == Field((1, 1), (2.0, 1.0), (-1.0, 5.0))


def test_every_second_place_put_together_is_one_map(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        ("Slice", "image zero end two step", "even", {}),
        ("Slice", "image one end two step", "odd", {}),
        ("Concat", "even odd", "y", {"axis": 1}),
    ]
    constants = {"zero": [0], "one": [1], "end": [2**31], "two": [2], "step": [2]}
    assert field(reach(nodes, constants=constants)) == Field((2, 1), (2.0, 1.0), (0.5, 0.0))


@pytest.mark.parametrize(
    ("attributes", "width", "offset"),
    [
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 3, -0.5),
        ({"mode": "nearest"}, 3, -0.5),
        ({"mode": "linear"}, 5, -0.5),
        ({"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, 5, 0.0),
        ({"mode": "cubic"}, 9, -0.5),
    ],
)
def test_scaling_up_divides_the_stride(
    reach: Callable[..., OutputReach], attributes: dict[str, Any], width: int, offset: float
) -> None:
    nodes: list[Node] = [
        ("Conv", "image w", "a", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Resize", "a - - to", "y", attributes),
    ]
    output = reach(nodes, constants={"to": [1, 8, 32, 32]})
    assert field(output) == Field((width, width), same(1), same(offset))


def test_a_transposed_convolution_and_depth_to_space_divide_the_stride(reach: Callable[..., OutputReach]) -> None:
    first: Node = ("Conv", "image w", "a", {"strides": [2, 2], "pads": [1, 1, 1, 1]})
    transposed: Node = ("ConvTranspose", "a t", "y", {"strides": [2, 2]})
    weights = {**WEIGHTS, "t": ((8, 4, 2, 2), F32)}
    assert field(reach([first, transposed], weights=weights)) == Field((3, 3), same(1), same(-0.5))
    assert field(reach([first, ("DepthToSpace", "a", "y", {"blocksize": 2})])) == Field((3, 3), same(1), same(-0.5))
    assert field(reach([("SpaceToDepth", "image", "y", {"blocksize": 4})])) == Field((4, 4), same(4), same(1.5))


def test_channels_last_is_the_same_map_in_another_order(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        CONV3,
        ("Transpose", "a", "b", {"perm": [0, 2, 3, 1]}),
        ("LayerNormalization", "b scale", "c", {}),
        ("MatMul", "c m", "y", {}),
    ]
    weights = {**WEIGHTS, "scale": ((8,), F32), "m": ((8, 5), F32)}
    output = reach(nodes, weights=weights)
    assert output.map is not None
    assert (output.map.layout, output.map.channels, output.context) == ("NHWC", 5, "local")
    assert field(output).receptive_px == (3, 3)


def test_shuffling_channels_by_reshaping_keeps_the_map(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        CONV3,
        ("Reshape", "a groups", "b", {}),
        ("Transpose", "b", "c", {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", "c back", "y", {}),
    ]
    output = reach(nodes, constants={"groups": [1, 2, 4, 32, 32], "back": [1, 8, 32, 32]})
    assert (field(output).receptive_px, output.context) == ((3, 3), "local")


SQUEEZE: list[Node] = [
    CONV3,
    ("ReduceMean", "a hw", "mean", {}),
    ("Conv", "mean s", "few", {}),
    ("Relu", "few", "active", {}),
    ("Conv", "active e", "many", {}),
    ("Sigmoid", "many", "gate", {}),
    ("Mul", "a gate", "y", {}),
]


def test_squeeze_and_excitation_is_gated_and_the_field_is_the_local_part(reach: Callable[..., OutputReach]) -> None:
    weights = {**WEIGHTS, "s": ((2, 8, 1, 1), F32), "e": ((8, 2, 1, 1), F32)}
    output = reach(SQUEEZE, weights=weights, constants={"hw": [2, 3]})
    assert (output.context, output.pooled, field(output).receptive_px) == ("gated", False, (3, 3))


@pytest.mark.parametrize("pooling", ["GlobalAveragePool", "ReduceMean", "AveragePool"])
def test_a_pooled_output_is_described_by_the_map_before(reach: Callable[..., OutputReach], pooling: str) -> None:
    kernel = {"kernel_shape": [32, 32]} if pooling == "AveragePool" else {}
    nodes: list[Node] = [
        CONV3,
        (pooling, "a hw" if pooling == "ReduceMean" else "a", "mean", kernel),
        ("Flatten", "mean", "flat", {}),
        ("Gemm", "flat fc", "y", {}),
    ]
    output = reach(nodes, weights={**WEIGHTS, "fc": ((8, 10), F32)}, constants={"hw": [2, 3]})
    assert (output.pooled, output.shape, output.context) == (True, (1, 10), "local")
    assert output.map is not None
    assert (output.map.tensor, output.map.shape) == ("a", (1, 8, 32, 32))
    assert field(output).receptive_px == (3, 3)


TOKENS: list[Node] = [
    ("Conv", "image p", "a", {"strides": [4, 4]}),
    ("Reshape", "a flat", "b", {}),
    ("Transpose", "b", "t", {"perm": [0, 2, 1]}),
]
ATTENTION: list[Node] = [
    *TOKENS,
    ("MatMul", "t b", "scores", {}),
    ("Softmax", "scores", "weights", {}),
    ("MatMul", "weights t", "mixed", {}),
    ("Transpose", "mixed", "u", {"perm": [0, 2, 1]}),
]
PATCH = {"p": ((8, 3, 4, 4), F32)}
FLAT = {"flat": [1, 8, 64], "back": [1, 8, 8, 8]}


def test_attention_is_global_and_the_stride_comes_from_the_sizes(reach: Callable[..., OutputReach]) -> None:
    output = reach([*ATTENTION, ("Reshape", "u back", "y", {})], weights=PATCH, constants=FLAT)
    assert output.context == "global"
    assert output.map is not None
    assert (output.map.field, output.map.stride_px, output.map.layout) == (None, (4.0, 4.0), "NCHW")
    assert output.local == Field((4, 4), same(4), same(1.5))


def test_a_map_that_attention_is_added_to_is_global_and_its_axes_stay_known(
    reach: Callable[..., OutputReach],
) -> None:
    nodes = [*ATTENTION, ("Reshape", "u back", "c", {}), ("Add", "a c", "y", {})]
    output = reach(nodes, weights=PATCH, constants=FLAT)
    assert (output.context, output.local) == ("global", Field((4, 4), same(4), same(1.5)))
    assert output.map is not None
    assert output.map.stride_px == (4.0, 4.0)


def test_the_layout_behind_attention_can_be_stated(reach: Callable[..., OutputReach]) -> None:
    nodes = [*ATTENTION, ("Reshape", "u back", "y", {})]
    stated = reach(nodes, layouts={"y": "NHWC"}, weights=PATCH, constants=FLAT)
    assert stated.map is not None
    assert (stated.map.layout, stated.map.channels) == ("NHWC", 8)


def test_tokens_that_are_put_back_untouched_are_the_map_again(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        TOKENS[0],
        ("Reshape", "a groups", "b", {}),
        ("InstanceNormalization", "b g h", "c", {}),
        ("Reshape", "c back", "y", {}),
    ]
    weights = {**PATCH, "g": ((2,), F32), "h": ((2,), F32)}
    output = reach(nodes, weights=weights, constants={"groups": [1, 2, 256], "back": [1, 8, 8, 8]})
    assert (output.context, field(output).receptive_px) == ("gated", (4, 4))


def test_where_reshaping_hides_the_geometry_nothing_is_claimed(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        ("Reshape", "image blocks", "b", {}),
        ("Transpose", "b", "c", {"perm": [0, 3, 5, 1, 2, 4]}),
        ("Reshape", "c back", "y", {}),
    ]
    output = reach(nodes, constants={"blocks": [1, 3, 16, 2, 16, 2], "back": [1, 12, 16, 16]})
    assert (output.context, output.pooled) == (None, False)
    assert output.map is not None
    assert (output.map.field, output.map.stride_px) == (None, (2.0, 2.0))


def test_sizes_that_do_not_divide_give_no_stride(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        ("Softmax", "image", "a", {"axis": 2}),
        ("Slice", "a zero end axes", "y", {}),
    ]
    constants = {"zero": [0], "end": [5], "axes": [2]}
    output = reach(nodes, constants=constants)
    assert output.context == "global"
    assert output.map is not None
    assert output.map.stride_px is None


def test_sizes_worked_out_in_the_graph_see_nothing(reach: Callable[..., OutputReach]) -> None:
    nodes: list[Node] = [
        CONV3,
        ("Shape", "a", "sides", {}),
        ("Reshape", "a sides", "y", {}),
    ]
    assert field(reach(nodes)).receptive_px == (3, 3)


def test_sizes_are_followed_through_arithmetic_that_inference_does_not_know(
    reach: Callable[..., OutputReach],
) -> None:
    nodes: list[Node] = [
        CONV3,
        ("Shape", "a", "sides", {"start": 2}),
        ("Div", "sides two", "half", {}),
        ("Concat", "head half", "to", {"axis": 0}),
        ("Resize", "a - - to", "y", {"mode": "nearest"}),
    ]
    output = reach(nodes, constants={"two": [2, 4], "head": [1, 8]})
    assert output.shape == (1, 8, 16, 8)
    assert field(output).stride_px == (2.0, 4.0)
