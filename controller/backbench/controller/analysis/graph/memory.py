"""Bytes: the weights, what each operator moves, and what is alive at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx

from backbench.controller.analysis.graph.results import Traffic
from backbench.controller.analysis.graph.tensors import FLOATS, Graph, Node, bytes_for

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})
"""Operators whose output is their input under another shape."""

_PICKING = frozenset({"Gather", "Slice", "GatherElements", "GatherND"})
_QUANTISED_DATA = {
    "DequantizeLinear": (0,),
    "QuantizeLinear": (0,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "QGemm": (0, 3, 6),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
}
"""Which inputs of a quantised operator are data; the others are scales and zero points."""

_PRECISIONS = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}


def parameter_counts(graph: Graph) -> Mapping[str, int]:
    """The names of the tensors that hold parameters, and how many numbers each has.

    Floating-point tensors of one dimension or more are parameters (a tensor without one is a literal of the program),
    and so is what a quantised operator takes as data. Scales and zero points are none.
    """
    data, scales = _quantised_inputs(graph)
    return {
        name: math.prod(tensor.dims)
        for name, tensor in graph.initialisers.items()
        if name in data or (tensor.data_type in FLOATS and len(tensor.dims) > 0 and name not in scales)
    }


def weight_bytes(graph: Graph) -> int:
    """The memory that the parameters take as they are stored."""
    counts = parameter_counts(graph)
    return sum(bytes_for(count, graph.dtype(name)) or 0 for name, count in counts.items())


def precision(graph: Graph) -> str:
    """`int8` if the graph quantises anything, else the type of most parameters; `unknown` without any."""
    if any(node.op_type in _QUANTISED_DATA for node in graph.nodes):
        return "int8"
    totals: dict[int, int] = {}
    for name, count in parameter_counts(graph).items():
        totals[graph.dtype(name)] = totals.get(graph.dtype(name), 0) + count
    return _PRECISIONS.get(max(totals, key=totals.__getitem__), "unknown") if totals else "unknown"


def node_bytes(node: Node, graph: Graph) -> tuple[int | None, int | None, int | None]:
    """Bytes of activations read, of weights read, and of results written; nothing for views and constants."""
    activations = graph.activations(node)
    if not activations or node.op_type in VIEWS or graph.is_constant(node.outputs[0]):
        return 0, 0, 0
    written = _sum(graph.bytes_of(name) for name in node.outputs if name)
    read = _sum(graph.bytes_of(name) for name in activations)
    if node.op_type in _PICKING and read is not None and written is not None:
        read = min(read, written)
    made_from = frozenset[str]().union(*(graph.sources.get(name, frozenset()) for name in node.inputs))
    numbers = [name for name in made_from if graph.dtype(name) != onnx.TensorProto.INT64]  # sizes and places are none
    return read, _sum(graph.bytes_of(name) for name in numbers), written


def traffic(graph: Graph) -> Traffic:
    """What one inference moves, with every operator on its own and with none."""
    moved = [part for node in graph.nodes for part in node_bytes(node, graph)]
    ends = [graph.bytes_of(name) for name in (*graph.inputs, *graph.outputs)]
    return Traffic(unfused_bytes=_sum(moved), ideal_bytes=_sum([weight_bytes(graph), *ends]))


def activation_peak_bytes(graph: Graph) -> int | None:
    """The most bytes of activations alive at once, the image included, running node by node in the graph's order.

    A value lives from the operator that makes it to the last one that reads it, a model's output to the end. Views
    take no memory, nothing is computed in place, and no workspace is counted: a lower-bound estimate.
    """
    roots = _roots(graph)
    last_use = {root: index for index, node in enumerate(graph.nodes) for root in _read(node, graph, roots)}
    last_use.update({roots.get(name, name): len(graph.nodes) for name in graph.outputs})
    alive = {name: graph.bytes_of(name) for name in graph.inputs}
    peak = _sum(alive.values())
    for index, node in enumerate(graph.nodes):
        made = [name for name in node.outputs if name and roots.get(name) == name]
        alive.update({name: graph.bytes_of(name) for name in made})
        now = _sum(alive.values())
        if now is None or peak is None:
            return None
        peak = max(peak, now)
        alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > index}
    return peak


def _roots(graph: Graph) -> dict[str, str]:
    """For every activation: the value whose memory it uses."""
    roots = {name: name for name in graph.inputs}
    for node in graph.nodes:
        for name in node.outputs:
            if not name or graph.is_constant(name):
                continue
            viewed = node.op_type in VIEWS and node.input(0) in roots and name == node.outputs[0]
            roots[name] = roots[node.inputs[0]] if viewed else name
    return roots


def _read(node: Node, graph: Graph, roots: Mapping[str, str]) -> list[str]:
    return [roots[name] for name in graph.activations(node) if name in roots]


def _quantised_inputs(graph: Graph) -> tuple[set[str], set[str]]:
    """Initialisers that quantised operators take as data, and those that are scales or zero points."""
    data: set[str] = set()
    others: set[str] = set()
    dynamic = {name for node in graph.nodes if node.op_type == "DynamicQuantizeLinear" for name in node.outputs[1:]}
    for node in graph.nodes:
        positions = _QUANTISED_DATA.get(node.op_type)
        if positions is not None:
            data.update(node.input(index) for index in positions)
            others.update(name for index, name in enumerate(node.inputs) if index not in positions)
        elif node.op_type == "Mul" and dynamic.intersection(node.inputs):
            others.update(name for name in node.inputs if name not in dynamic)
    stored = graph.initialisers.keys()
    return data & stored, (others & stored) - data


def _sum(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
