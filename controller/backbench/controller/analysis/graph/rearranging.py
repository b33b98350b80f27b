"""What operators that move numbers about do to a map's axes: reshaping, transposing, picking, putting together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from backbench.controller.analysis.graph.results import Shape
from backbench.controller.analysis.graph.tensors import Graph, Node
from backbench.controller.analysis.graph.trace import Axes, MapTrace, Reach, Trace, joined


def reshape(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a Reshape, Flatten, Squeeze or Unsqueeze; a map that is reshaped back to its old shape is a map again."""
    trace = traces[0]
    before, after = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if before is None or after is None:
        return trace.lost()
    if before == after:
        return trace
    if trace.folded is not None and trace.folded.shape == after:
        return trace.folded.trace
    if trace.axes is None:
        return replace(trace, folded=None)
    axes = _same_axes(before, after, trace.axes)
    if axes is not None:
        return replace(trace, axes=axes, folded=None)
    lost = trace.lost()
    return lost if trace.spans is None else replace(lost, folded=MapTrace(node.inputs[0], before, trace))


def transpose(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a Transpose."""
    trace, shape = traces[0], graph.shape(node.inputs[0])
    if trace.axes is None or shape is None:
        return replace(trace, folded=None)
    rank = len(shape)
    order = node.ints("perm", range(rank - 1, -1, -1))
    rows, columns = (order.index(axis + rank) - rank for axis in trace.axes)
    if (rows, columns) == (trace.axes[1], trace.axes[0]):
        return trace.lost()  # height and width change places
    return replace(trace, axes=(rows, columns), folded=None)


def gather(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a Gather: other channels are the same map, other places are none."""
    trace, shape = traces[0], graph.shape(node.inputs[0])
    indices = graph.shape(node.input(1))
    if shape is None or indices is None or len(indices) > 1:
        return trace.lost()
    axis = int(node.attributes.get("axis", 0)) % len(shape) - len(shape)
    if trace.axes is not None and axis in trace.axes:
        return trace.lost()
    return without(trace, () if indices else (axis,))


def split(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a Split: parts of the channels are the same map, parts of the places are none."""
    trace, shape = traces[0], graph.shape(node.inputs[0])
    if shape is None:
        return trace.lost()
    axis = int(node.attributes.get("axis", 0)) % len(shape) - len(shape)
    if trace.axes is not None and axis in trace.axes:
        return trace.lost()
    return replace(trace, folded=None)


def concat(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a Concat: more channels are a map, more places are none."""
    shape = graph.shape(node.outputs[0])
    together = replace(joined(traces), folded=None)
    if shape is None:
        return together.lost()
    axis = int(node.attributes["axis"]) % len(shape) - len(shape)
    if together.axes is not None and axis in together.axes:
        return together.lost(max(Reach.UNKNOWN, *(trace.reach for trace in traces)))
    return together


def without(trace: Trace, removed: Collection[int]) -> Trace:
    """The state when `removed` axes, counted from the end and none of space, are no longer there."""
    if trace.axes is None:
        return replace(trace, folded=None)
    rows, columns = (axis + sum(1 for gone in removed if gone > axis) for axis in trace.axes)
    return replace(trace, axes=(rows, columns), folded=None)


def _same_axes(before: Shape, after: Shape, axes: Axes) -> Axes | None:
    """Where height and width are after reshaping, if they are still axes of their own, else None."""
    found: list[int] = []
    for axis in axes:
        place = axis + len(before)
        matches = [
            candidate
            for candidate, side in enumerate(after)
            if side == before[place]
            and _product(after[:candidate]) == _product(before[:place])
            and candidate - len(after) not in found
        ]
        if not matches:
            return None
        # Axes of length 1 can stand for each other; height and width come last where that leaves a choice.
        found.append((matches[-1] if axis == axes[1] else matches[0]) - len(after))
    return found[0], found[1]


def _product(sides: Shape) -> int:
    result = 1
    for side in sides:
        result *= side
    return result
