from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx

from backbench.controller.analysis.graph import analyse

F32 = onnx.TensorProto.FLOAT
Make = Callable[..., onnx.ModelProto]
Node = tuple[str, str, str, Mapping[str, Any]]
IMAGE = 3 * 32 * 32 * 4


def test_a_value_lives_until_its_last_reader(make: Make) -> None:
    nodes: list[Node] = [
        ("Relu", "image", "a", {}),
        ("Sigmoid", "a", "b", {}),
        ("Add", "a b", "c", {}),
        ("Relu", "c", "y", {}),
    ]
    assert analyse(make(nodes)).activation_peak_bytes == 3 * IMAGE


def test_a_chain_holds_two_values_and_the_image_is_one_of_them(make: Make) -> None:
    assert analyse(make([("Relu", "image", "a", {}), ("Relu", "a", "y", {})])).activation_peak_bytes == 2 * IMAGE


def test_an_output_is_alive_to_the_end(make: Make) -> None:
    nodes: list[Node] = [("Relu", "image", "first", {}), ("Relu", "first", "a", {}), ("Relu", "a", "y", {})]
    assert analyse(make(nodes, outputs=("first", "y"))).activation_peak_bytes == 3 * IMAGE


def test_views_take_no_memory_and_keep_what_they_show_alive(make: Make) -> None:
    nodes: list[Node] = [
        ("Relu", "image", "a", {}),
        ("Reshape", "a to", "b", {}),
        ("Flatten", "b", "c", {}),
        ("Relu", "c", "d", {}),
        ("Relu", "d", "y", {}),
    ]
    analysis = analyse(make(nodes, constants={"to": [3, 1024]}))
    assert analysis.activation_peak_bytes == 2 * IMAGE
    assert [each.traffic_bytes for each in analysis.operators] == [2 * IMAGE, 0, 0, 2 * IMAGE, 2 * IMAGE]


def test_traffic_is_every_operators_own_or_the_ends_once(make: Make) -> None:
    nodes: list[Node] = [("Conv", "image w", "a", {"pads": [1, 1, 1, 1]}), ("Relu", "a", "y", {})]
    analysis = analyse(make(nodes, weights={"w": ((8, 3, 3, 3), F32)}))
    weights, result = 8 * 27 * 4, 8 * 32 * 32 * 4
    assert analysis.operators[0].weight_bytes == weights
    assert analysis.traffic.unfused_bytes == IMAGE + weights + 3 * result
    assert analysis.traffic.ideal_bytes == weights + IMAGE + result
    assert analysis.operators[0].flop_per_byte == 2 * 8 * 27 * 1024 / (IMAGE + weights + result)
    assert analysis.operators[1].flop_per_byte is None


def test_what_is_made_from_weights_alone_moves_and_holds_nothing(make: Make) -> None:
    nodes: list[Node] = [
        ("DequantizeLinear", "w s", "wf", {}),
        ("Conv", "image wf", "y", {"pads": [1, 1, 1, 1]}),
    ]
    weights = {"w": ((8, 3, 3, 3), onnx.TensorProto.INT8), "s": ((), F32)}
    analysis = analyse(make(nodes, weights=weights))
    assert analysis.operators[0].traffic_bytes == 0
    assert analysis.operators[1].weight_bytes == 8 * 27 + 4
    assert analysis.activation_peak_bytes == IMAGE + 8 * 32 * 32 * 4


def test_picking_a_part_reads_only_that_part(make: Make) -> None:
    model = make([("Gather", "image one", "y", {"axis": 1})], constants={"one": [1]})
    assert analyse(model).operators[0].traffic_bytes == 2 * 32 * 32 * 4


def test_the_batch_multiplies_activations_and_not_weights(make: Make) -> None:
    nodes: list[Node] = [("Conv", "image w", "y", {"pads": [1, 1, 1, 1]})]
    one, four = (analyse(make(nodes, image=(batch, 3, 32, 32), weights={"w": ((8, 3, 3, 3), F32)})) for batch in (1, 4))
    assert one.macs is not None
    assert one.activation_peak_bytes is not None
    assert four.macs == 4 * one.macs
    assert four.activation_peak_bytes == 4 * one.activation_peak_bytes
    assert (four.parameters, four.weight_bytes) == (one.parameters, one.weight_bytes)
