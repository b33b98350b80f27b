"""What operators that look at neighbours do to a map's geometry: convolutions, poolings, scalings, crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from backbench.controller.analysis.graph.macs import weight_index
from backbench.controller.analysis.graph.results import Shape
from backbench.controller.analysis.graph.spans import Span
from backbench.controller.analysis.graph.tensors import Graph, Node
from backbench.controller.analysis.graph.trace import MapTrace, Spans, Trace

NCHW = (-2, -1)
_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}


def window(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a convolution or a pooling; a pooling of the whole map pools it."""
    trace = traces[0]
    shapes = (graph.shape(node.inputs[0]), graph.shape(node.outputs[0]))
    kernel = _kernel(node, graph)
    if trace.spans is None or trace.axes != NCHW or kernel is None or shapes[0] is None or shapes[1] is None:
        return trace.lost(axes=NCHW if shapes[1] is not None and len(shapes[1]) == 4 else None)
    before, after = shapes[0][2:], shapes[1][2:]
    covered = all(side <= taps for side, taps in zip(before, kernel, strict=True))
    if "Pool" in node.op_type and covered and math.prod(after) == 1 < math.prod(before):
        return pooled(node, graph, traces)
    if node.op_type == "ConvTranspose":
        return trace.moved(_transposed(trace.spans, node, kernel))
    strides, dilations = node.ints("strides", (1, 1)), node.ints("dilations", (1, 1))
    spans = [
        span.window(
            kernel[axis],
            strides[axis],
            _pad(node, axis, (before[axis], after[axis]), dilations[axis] * (kernel[axis] - 1) + 1),
            dilations[axis],
        )
        for axis, span in enumerate(trace.spans)
    ]
    return trace.moved((spans[0], spans[1]))


def pooled(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind an operator that reduces the whole map."""
    shape = graph.shape(node.inputs[0])
    trace = traces[0]
    if shape is None or trace.axes is None:
        return trace.lost()
    return Trace(trace.reach, pooled=MapTrace(node.inputs[0], shape, trace), before=trace.before)


def resize(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a scaling of the map."""
    trace = traces[0]
    before, after = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if trace.spans is None or trace.axes is None or before is None or after is None:
        return trace.lost(axes=trace.axes)
    spans = [
        _resized(span, node, before[axis], after[axis]) for span, axis in zip(trace.spans, trace.axes, strict=True)
    ]
    return trace.moved((spans[0], spans[1]))


def pad(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a padding; where the amounts are not constants, both sides are taken to get as much, or the end more."""
    trace = traces[0]
    before, after = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if trace.spans is None or trace.axes is None or before is None or after is None:
        return trace.lost(axes=trace.axes)
    amounts = node.ints("pads", ()) or graph.integers(node.input(1))
    axes = graph.integers(node.input(3)) if node.input(3) else tuple(range(len(before)))
    begins: dict[int, int] = {}
    if amounts is not None and axes is not None:
        begins = {axis % len(before) - len(before): amounts[place] for place, axis in enumerate(axes)}
    spans = []
    for span, axis in zip(trace.spans, trace.axes, strict=True):
        unknown = (after[axis] - before[axis]) // 2 if not begins else 0
        spans.append(span.picked(-begins.get(axis, unknown)))
    return trace.moved((spans[0], spans[1]))


def crop(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """Behind a Slice: every so many places of the map from one on."""
    trace, shape = traces[0], graph.shape(node.inputs[0])
    if trace.axes is None or shape is None:
        return Trace(trace.reach, None, trace.axes, trace.before)
    starts = node.ints("starts", ()) or graph.integers(node.input(1))
    if starts is None:
        return trace.lost(axes=trace.axes)
    axes: Sequence[int] = tuple(range(len(starts)))
    if node.input(3) or "axes" in node.attributes:
        axes = graph.axes(node, 3) or ()
    steps = graph.integers(node.input(4)) if node.input(4) else (1,) * len(starts)
    if steps is None or len(axes) != len(starts):
        return trace.lost(axes=trace.axes)
    cuts = {
        axis % len(shape) - len(shape): (start, step) for axis, start, step in zip(axes, starts, steps, strict=True)
    }
    if trace.spans is None or not cuts.keys() & set(trace.axes):
        return trace.moved(trace.spans)
    spans = [
        _cut(span, shape[axis], *cuts.get(axis, (0, 1))) for span, axis in zip(trace.spans, trace.axes, strict=True)
    ]
    return trace.moved((spans[0], spans[1]))


def depth_to_space(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:  # noqa: ARG001
    """Behind a DepthToSpace: channels become neighbours."""
    trace = traces[0]
    if trace.spans is None:
        return trace.lost(axes=NCHW)
    rows, columns = (span.resized(Fraction(int(node.attributes["blocksize"])), 1) for span in trace.spans)
    return trace.moved((rows, columns))


def space_to_depth(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:  # noqa: ARG001
    """Behind a SpaceToDepth: neighbours become channels."""
    trace, block = traces[0], int(node.attributes["blocksize"])
    if trace.spans is None:
        return trace.lost(axes=NCHW)
    rows, columns = (span.window(block, block) for span in trace.spans)
    return trace.moved((rows, columns))


def _kernel(node: Node, graph: Graph) -> Shape | None:
    stated = node.ints("kernel_shape", ())
    index = weight_index(node)
    weights = graph.shape(node.input(index)) if index is not None else None
    kernel = stated or (weights[2:] if weights is not None else None)
    return kernel if kernel is not None and len(kernel) == 2 else None


def _pad(node: Node, axis: int, sides: tuple[int, int], extent: int) -> int:
    """How many elements are added in front along one axis."""
    how = node.text("auto_pad", "NOTSET")
    if how == "VALID":
        return 0
    if how == "NOTSET":
        return node.ints("pads", (0, 0, 0, 0))[axis]
    before, after = sides
    total = max((after - 1) * node.ints("strides", (1, 1))[axis] + extent - before, 0)
    return total // 2 if how == "SAME_UPPER" else total - total // 2


def _transposed(spans: Spans, node: Node, kernel: Shape) -> Spans:
    strides, dilations = node.ints("strides", (1, 1)), node.ints("dilations", (1, 1))
    pads = node.ints("pads", (0, 0, 0, 0))
    moved = []
    for axis, span in enumerate(spans):
        reach = (kernel[axis] - 1) * dilations[axis]
        shift = (pads[axis] - Fraction(reach, 2)) / strides[axis]
        moved.append(span.resized(Fraction(strides[axis]), reach // strides[axis] + 1, shift))
    return moved[0], moved[1]


def _resized(span: Span, node: Node, before: int, after: int) -> Span:
    if before == after:
        return span
    mode = node.text("mode", "nearest")
    where = node.text("coordinate_transformation_mode", "half_pixel")
    corners = where == "align_corners" and min(before, after) > 1
    scale = Fraction(after - 1, before - 1) if corners else Fraction(after, before)
    taps = _TAPS.get(mode, 1)
    if node.attributes.get("antialias", 0) and scale < 1:
        taps = math.ceil(taps / scale)
    # Nearest neighbours lie evenly around their source, wherever counting starts.
    shift = Fraction(0) if corners or (where == "asymmetric" and mode != "nearest") else None
    return span.resized(scale, taps, shift)


def _cut(span: Span, side: int, start: int, step: int) -> Span:
    first = max(start + side, 0) if start < 0 else min(start, side)
    if step < 0:
        first = min(first, side - 1)
    return span.picked(first, step)
