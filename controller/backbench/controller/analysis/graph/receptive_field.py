"""The receptive field, stride and offset of every output of a graph, walked from the image on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from backbench.controller.analysis.graph import rearranging, windows
from backbench.controller.analysis.graph.results import Context, FeatureMap, Field, OutputReach, Shape
from backbench.controller.analysis.graph.tensors import Graph, Node
from backbench.controller.analysis.graph.trace import Axes, MapTrace, Reach, Spans, Trace, joined

Rule = Callable[[Node, Graph, Sequence[Trace]], Trace]

_LAYOUTS: dict[str, Axes] = {"NCHW": (-2, -1), "NHWC": (-3, -2)}
_CONTEXTS: dict[Reach, Context | None] = {
    Reach.LOCAL: "local",
    Reach.GATED: "gated",
    Reach.UNKNOWN: None,
    Reach.GLOBAL: "global",
}
_ELEMENTWISE = (
    "Abs", "Add", "And", "BatchNormalization", "BitShift", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos",
    "DequantizeLinear", "Div", "Dropout", "DynamicQuantizeLinear", "Elu", "Equal", "Erf", "Exp", "Expand", "Floor",
    "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual",
    "Log", "LRN", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
    "Swish", "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
_WINDOWS = (
    *("Conv", "ConvInteger", "QLinearConv", "ConvTranspose"),
    *("MaxPool", "AveragePool", "LpPool"),
)
_REDUCTIONS = ("Mean", "Sum", "Max", "Min", "L1", "L2", "SumSquare", "LogSum", "LogSumExp", "Prod")
_GROUP_NORMALISATIONS = ("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization")
_PRODUCTS = ("MatMul", "MatMulInteger", "Gemm", "QLinearMatMul")
_SINGLE = {"Resize", "Upsample", "Pad", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Gather", "Tile"}
"""Operators that have a map as their first input only; the others are sizes and places."""


def output_reaches(graph: Graph, layouts: Mapping[str, str] | None = None) -> tuple[OutputReach, ...]:
    """What each output sees of the image. `layouts` states NCHW or NHWC by output, for where it is lost."""
    traces = traces_of(graph)
    image = next((shape for name in graph.inputs if (shape := graph.shape(name)) is not None and len(shape) == 4), None)
    return tuple(_reach(name, graph, traces.get(name), image, (layouts or {}).get(name)) for name in graph.outputs)


def traces_of(graph: Graph) -> Mapping[str, Trace]:
    """The state at every value that depends on the image."""
    traces = {name: Trace.image() for name in graph.inputs if len(graph.shape(name) or ()) == 4}
    for node in graph.nodes:
        trace = _follow(node, graph, traces)
        outputs = node.outputs[:1] if node.op_type == "DynamicQuantizeLinear" else node.outputs
        if trace is not None:
            traces.update({name: trace for name in outputs if name and not graph.is_constant(name)})
    return traces


def _follow(node: Node, graph: Graph, traces: Mapping[str, Trace]) -> Trace | None:
    names = node.inputs[:1] if node.op_type in _SINGLE else node.inputs
    given = [traces[name] for name in dict.fromkeys(names) if name in traces]
    if not given:
        return None
    if all(trace.pooled is not None for trace in given):
        return joined(given)
    rule = _RULES.get(node.op_type) if not node.domain else None
    return joined(given).lost() if rule is None else rule(node, graph, given)


def _elementwise(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:  # noqa: ARG001
    return joined(traces)


def _reduction(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    trace, shape = traces[0], graph.shape(node.inputs[0])
    if shape is None:
        return trace.lost()
    rank = len(shape)
    stated = graph.axes(node)
    if not stated and node.attributes.get("noop_with_empty_axes", 0):
        return trace
    reduced = {axis % rank - rank for axis in stated} if stated else set(range(-rank, 0))
    if trace.axes is None and rank == 4 and reduced in ({-2, -1}, {-3, -2}):
        trace = replace(trace, axes=(min(reduced), max(reduced)))
    if trace.axes is not None and reduced & set(trace.axes):
        return windows.pooled(node, graph, [trace])
    return trace if node.attributes.get("keepdims", 1) else rearranging.without(trace, reduced)


def _softmax(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    trace, shape = traces[0], graph.shape(node.inputs[0])
    rank = len(shape or ())
    axis = int(node.attributes.get("axis", -1))
    if trace.axes is None or not rank or axis % rank - rank in trace.axes:
        return trace.lost(Reach.GLOBAL, trace.axes)
    return trace


def _normalisation(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    """A normalisation over places depends on all of them; one over channels does not."""
    trace, rank = traces[0], len(graph.shape(node.inputs[0]) or ())
    if node.op_type in _GROUP_NORMALISATIONS:
        return trace.at_least(Reach.GATED)
    first = int(node.attributes.get("axis", -1)) % max(rank, 1) - rank
    axes = range(first, 0) if node.op_type != "LpNormalization" else range(first, first + 1)
    over_places = trace.axes is not None and bool(set(axes) & set(trace.axes))
    return trace.at_least(Reach.GATED) if over_places else trace


def _product(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:
    right = 3 if node.op_type == "QLinearMatMul" else 1
    factors = [(place, node.input(index)) for place, index in enumerate((0, right))]
    varying = [place for place, name in factors if not graph.is_constant(name)]
    together = joined(traces)
    if len(varying) != 1:
        return together.lost(Reach.GLOBAL)
    transposed = bool(node.attributes.get("transB" if varying[0] else "transA", 0))
    summed = -1 if (varying[0] == 0) != transposed else -2
    if together.axes is not None and summed in together.axes:
        return together.lost(Reach.GLOBAL)
    return together if together.folded is None else replace(together, folded=None)


def _attention(node: Node, graph: Graph, traces: Sequence[Trace]) -> Trace:  # noqa: ARG001
    return joined(traces).lost(Reach.GLOBAL)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_WINDOWS, windows.window),
    **{f"Reduce{kind}": _reduction for kind in _REDUCTIONS},
    **{f"Global{kind}Pool": windows.pooled for kind in ("Average", "Max", "Lp")},
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(
        (*_GROUP_NORMALISATIONS, "LayerNormalization", "RMSNormalization", "LpNormalization"), _normalisation
    ),
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(("Attention", "Einsum", "LSTM", "GRU", "RNN"), _attention),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), rearranging.reshape),
    **dict.fromkeys(("Resize", "Upsample"), windows.resize),
    "Pad": windows.pad,
    "Slice": windows.crop,
    "DepthToSpace": windows.depth_to_space,
    "SpaceToDepth": windows.space_to_depth,
    "Transpose": rearranging.transpose,
    "Gather": rearranging.gather,
    "Split": rearranging.split,
    "Concat": rearranging.concat,
}


def _reach(name: str, graph: Graph, trace: Trace | None, image: Shape | None, layout: str | None) -> OutputReach:
    shape = graph.shape(name)
    if trace is None or image is None:
        return OutputReach(name, shape, pooled=False, context=None, map=None, local=None)
    origin = trace.pooled or (None if shape is None else MapTrace(name, shape, trace))
    source = origin.trace if origin is not None else trace
    found = None if origin is None else _feature_map(origin, image, layout if trace.pooled is None else None)
    seen = source.before if source.spans is None else None
    return OutputReach(
        name,
        shape,
        pooled=trace.pooled is not None,
        context=_CONTEXTS[source.reach],
        map=found,
        local=None if seen is None else _field(seen),
    )


def _feature_map(origin: MapTrace, image: Shape, layout: str | None) -> FeatureMap | None:
    shape, trace = origin.shape, origin.trace
    if len(shape) != 4:
        return None
    axes = trace.axes or _LAYOUTS.get(layout or "") or _guessed_axes(shape, image)
    name = next((each for each, known in _LAYOUTS.items() if known == axes), None)
    if axes is None or name is None:
        return None
    field = None if trace.spans is None else _field(trace.spans)
    stride = field.stride_px if field else _ratio(shape, image, axes)
    return FeatureMap(origin.tensor, shape, name, stride, field)


def _field(spans: Spans) -> Field:
    rows, columns = spans
    return Field(
        receptive_px=(rows.width, columns.width),
        stride_px=(float(rows.step), float(columns.step)),
        offset_px=(rows.centre, columns.centre),
    )


def _guessed_axes(shape: Shape, image: Shape) -> Axes | None:
    """The layout by which the map's sides divide the image's."""
    return next((axes for axes in _LAYOUTS.values() if _ratio(shape, image, axes) is not None), None)


def _ratio(shape: Shape, image: Shape, axes: Axes) -> tuple[float, float] | None:
    sides = [(image[place], shape[axis]) for place, axis in zip((2, 3), axes, strict=True)]
    if any(not small or large % small for large, small in sides):
        return None
    return float(sides[0][0] // sides[0][1]), float(sides[1][0] // sides[1][1])
