"""Shapes of every value of a graph, also where the graph works out sizes by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
import onnx.helper
import onnx.inliner
import onnx.numpy_helper
import onnx.reference
import onnx.shape_inference

from backbench.controller.analysis.graph.results import Shape
from backbench.domain.errors import InvalidModel
from backbench.models.onnx_input import without_weights

_LARGEST = 1 << 20
_SMALL = 64
_ROUNDS = 32
_NUMBERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)

Constants = dict[str, onnx.TensorProto]


def with_shapes(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Mapping[str, onnx.TensorProto]]:
    """`model` with the shape of every value that can be known, and the values that follow from the sizes alone.

    Exporters write sizes as arithmetic on the image's shape; ONNX's own inference follows most of it. Where it does
    not, small nodes whose inputs are known are evaluated. Nodes that some converters leave out of order are sorted.
    Raises InvalidModel where shapes contradict each other or nodes wait for each other.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    nodes, in_order = _ordered(model.graph)
    if in_order and _is_complete(model):
        return model, {}
    light = without_weights(model)
    if not in_order:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del light.graph.node[:]
        light.graph.node.extend(copies)
    inferred = _inferred(light)
    folded: Constants = {}
    for _ in range(_ROUNDS):
        if _is_complete(inferred, folded):
            break
        found = _folded(inferred, folded)
        if not found:
            break
        folded.update(found)
        inferred = _inferred(_without_nodes(light, folded))
    result = onnx.ModelProto()
    result.CopyFrom(light)
    result.graph.value_info.extend(inferred.graph.value_info)
    del result.graph.output[:]
    result.graph.output.extend(inferred.graph.output)
    return result, folded


def concrete(value: onnx.ValueInfoProto) -> Shape | None:
    """A value's shape; None where it is not known in full."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return None if any(dim < 0 for dim in dims) else dims


def _ordered(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], bool]:
    """The nodes, each behind those whose outputs it takes, and whether they were so already."""
    made = {name for node in graph.node for name in node.output if name}
    known: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    waiting, rounds = list(graph.node), 0
    while waiting:
        later: list[onnx.NodeProto] = []
        for node in waiting:
            if all(name in known or name not in made for name in node.input):
                nodes.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise InvalidModel(f"the nodes of the graph wait for each other ({later[0].name}); export the model again")
        waiting, rounds = later, rounds + 1
    return nodes, rounds <= 1


def _is_complete(model: onnx.ModelProto, folded: Mapping[str, onnx.TensorProto] | None = None) -> bool:
    known = {value.name for value in [*model.graph.value_info, *model.graph.output] if concrete(value) is not None}
    known |= set(folded or ())
    return all(name in known for node in model.graph.node for name in node.output if name)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        first = str(error).strip().splitlines()[0]
        raise InvalidModel(f"the graph's shapes do not fit together ({first}); export the model again") from error


def _folded(model: onnx.ModelProto, before: Mapping[str, onnx.TensorProto]) -> Constants:
    """Values that follow from the sizes and were not known `before`."""
    shapes = {value.name: concrete(value) for value in [*model.graph.value_info, *model.graph.input]}
    known: Constants = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.name in before or (_has_data(tensor) and _is_number(tensor))
    }
    found: Constants = {}
    for node in model.graph.node:
        made = _evaluated(node, known, shapes, model.opset_import)
        known.update(made)
        found.update(made)
    return found


def _evaluated(
    node: onnx.NodeProto, known: Constants, shapes: Mapping[str, Shape | None], opsets: list[onnx.OperatorSetIdProto]
) -> Constants:
    if node.op_type == "Shape" and (shape := shapes.get(node.input[0])) is not None:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return {node.output[0]: _tensor(shape[bounds.get("start", 0) : bounds.get("end")], node.output[0])}
    given = [name for name in node.input if name]
    if node.domain not in ("", "ai.onnx") or any(name not in known for name in given):
        return {}
    if any(attribute.HasField("g") for attribute in node.attribute) or (not given and node.op_type != "Constant"):
        return {}
    try:
        evaluator = onnx.reference.ReferenceEvaluator(node, opsets={entry.domain: entry.version for entry in opsets})
        values = evaluator.run(None, {name: onnx.numpy_helper.to_array(known[name]) for name in given})
        made = {
            name: onnx.numpy_helper.from_array(value, name)
            for name, value in zip(node.output, values, strict=True)
            if name and value.size <= _LARGEST
        }
    except Exception:  # noqa: BLE001 - what the reference evaluator cannot do stays unknown
        return {}
    return {name: tensor for name, tensor in made.items() if _is_number(tensor)}


def _is_number(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is of sizes or places: integers, or a few floating-point numbers."""
    return tensor.data_type in _NUMBERS or math.prod(tensor.dims) <= _SMALL


def _has_data(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) == 0 or any(field.name.endswith("_data") for field, _ in tensor.ListFields())


def _tensor(values: Shape, name: str) -> onnx.TensorProto:
    return onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values)


def _without_nodes(model: onnx.ModelProto, folded: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """`model` with constants in place of the nodes that make them."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(
        node for node in model.graph.node if not all(name in folded for name in node.output if name)
    )
    result.graph.initializer.extend(folded.values())
    return result
