"""Everything that can be said of a graph at one size without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx

from backbench.controller.analysis.graph import memory
from backbench.controller.analysis.graph.macs import convolution_kind, is_counted, macs_of
from backbench.controller.analysis.graph.receptive_field import output_reaches
from backbench.controller.analysis.graph.results import GraphAnalysis, Operator
from backbench.controller.analysis.graph.tensors import Graph, Node


def analyse(model: onnx.ModelProto, *, layouts: Mapping[str, str] | None = None) -> GraphAnalysis:
    """The analysis of a model whose sizes are fixed; its large weights need no data, and are not read.

    `layouts` states NCHW or NHWC by the name of an output; it matters behind attention, where the graph no longer
    tells. Raises InvalidArgument where the input has no fixed size, InvalidModel where shapes contradict each other.
    """
    graph = Graph(model)
    operators = tuple(_operator(node, graph) for node in graph.nodes)
    return GraphAnalysis(
        parameters=sum(memory.parameter_counts(graph).values()),
        weight_bytes=memory.weight_bytes(graph),
        precision=memory.precision(graph),
        macs=_sum(operators),
        depthwise_macs=_sum(each for each in operators if each.group == "depthwise"),
        grouped_macs=_sum(each for each in operators if each.group == "grouped"),
        activation_peak_bytes=memory.activation_peak_bytes(graph),
        traffic=memory.traffic(graph),
        operators=operators,
        histogram=dict(Counter(node.op_type for node in graph.nodes).most_common()),
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        domains={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        input_shape=graph.shape(graph.inputs[0]) or () if graph.inputs else (),
        outputs=output_reaches(graph, layouts),
    )


def _operator(node: Node, graph: Graph) -> Operator:
    read, weights, written = memory.node_bytes(node, graph)
    constant = not graph.activations(node)
    return Operator(
        name=node.name,
        op_type=node.op_type if not node.domain else f"{node.domain}.{node.op_type}",
        output_shape=graph.shape(node.outputs[0]),
        macs=None if constant else macs_of(node, graph),
        counted=is_counted(node) and not constant,
        group=convolution_kind(node, graph),
        input_bytes=read,
        weight_bytes=weights,
        output_bytes=written,
    )


def _sum(operators: Iterable[Operator]) -> int | None:
    """The multiply-adds of all; None where those of one that counts are unknown."""
    total = 0
    for operator in operators:
        if operator.macs is not None:
            total += operator.macs
        elif operator.counted:
            return None
    return total
