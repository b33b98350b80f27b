"""Multiply-adds of a graph's operators.

The convention: one multiply-add is one; what is counted is convolutions, matrix products and attention, also between
two activations. Biases, normalisations, activation functions, poolings and element-wise operators are listed but not
counted, as in the figures that papers and model zoos publish.
"""

from __future__ import annotations

import math
from typing import Literal

from backbench.controller.analysis.graph.tensors import Graph, Node

_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
_PRODUCTS = {"MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"}
_HIDDEN = {"If", "Loop", "Scan", "LSTM", "GRU", "RNN", "Einsum", "DeformConv"}
"""Operators with multiply-adds that are not worked out here; with one of them there is no sum."""


def is_counted(node: Node) -> bool:
    """Whether the convention counts the operator; also true of operators whose work cannot be worked out."""
    if node.domain:
        return True
    return node.op_type in _CONVOLUTIONS or node.op_type in _PRODUCTS | _HIDDEN | {"Attention"}


def macs_of(node: Node, graph: Graph) -> int | None:
    """The operator's multiply-adds; None if it is not counted or its sizes are unknown."""
    if node.domain:
        return None
    if node.op_type in _CONVOLUTIONS:
        return _convolution(node, graph)
    if node.op_type in _PRODUCTS:
        return _product(node, graph)
    if node.op_type == "Attention":
        return _attention(node, graph)
    return None


def convolution_kind(node: Node, graph: Graph) -> Literal["dense", "grouped", "depthwise"] | None:
    """How a convolution groups its channels; None for other operators."""
    weights = _weights(node, graph)
    if weights is None:
        return None
    group = int(node.attributes.get("group", 1))
    if group == 1:
        return "dense"
    channels = weights[0] if node.op_type == "ConvTranspose" else weights[1] * group
    return "depthwise" if group == channels else "grouped"


def weight_index(node: Node) -> int | None:
    """Which input of a convolution holds its weights; None for other operators."""
    return None if node.domain else _CONVOLUTIONS.get(node.op_type)


def _weights(node: Node, graph: Graph) -> tuple[int, ...] | None:
    index = weight_index(node)
    return None if index is None else graph.shape(node.input(index))


def _convolution(node: Node, graph: Graph) -> int | None:
    weights = _weights(node, graph)
    places = graph.shape(node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0])
    if weights is None or places is None:
        return None
    return math.prod(places) * math.prod(weights[1:])


def _product(node: Node, graph: Graph) -> int | None:
    left, result = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if left is None or result is None or not left:
        return None
    return math.prod(result) * (left[0] if node.attributes.get("transA", 0) else left[-1])


def _attention(node: Node, graph: Graph) -> int | None:
    """Queries times keys, and the weights times values."""
    query, key, value = (graph.shape(node.input(index)) for index in range(3))
    if query is None or key is None or value is None:
        return None
    if len(query) == 4:
        batch, heads, tokens, width = query
        return batch * heads * tokens * key[2] * (width + value[3])
    batch, tokens, width = query
    heads, key_heads = int(node.attributes.get("q_num_heads", 1)), int(node.attributes.get("kv_num_heads", 1))
    return batch * tokens * key[1] * (width + heads * (value[2] // key_heads))
