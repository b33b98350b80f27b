"""Skeletons: an ONNX graph without its weights, and the weights' random stand-ins.

A skeleton is a plain ONNX file in which a large initialiser has a name, a type and a shape but no data, and whose
metadata holds, under `backbench.skeleton`, one recipe a tensor and a seed (JSON, schema `backbench.skeleton/1`).
No runtime accepts it; `materialise` makes the model that one does.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from backbench.domain.errors import InvalidModel
from backbench.models.onnx_file import StoredTensor, has_metadata, read_model, write_model
from backbench.models.onnx_input import SKELETON_KEY, frame_for_size, image_input, metadata, shape_only, without_weights
from backbench.models.random_weights import KINDS, Kind, TensorRecipe, random_chunks, recipe_for

SCHEMA = "backbench.skeleton/1"
SMALLEST_DROPPED = 256
"""Numbers; a tensor with fewer keeps them."""

_DROPPED_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
_KINDS_BY_INPUT: dict[tuple[str, int], Kind] = {
    ("Conv", 1): "weight",
    ("ConvTranspose", 1): "weight",
    ("Gemm", 0): "weight",
    ("Gemm", 1): "weight",
    ("MatMul", 0): "weight",
    ("MatMul", 1): "weight",
    ("BatchNormalization", 1): "scale",
    ("BatchNormalization", 4): "scale",
    ("LayerNormalization", 1): "scale",
    ("GroupNormalization", 1): "scale",
    ("InstanceNormalization", 1): "scale",
    ("Mul", 0): "scale",
    ("Mul", 1): "scale",
    ("Div", 1): "scale",
}


def skeleton_from_onnx(model: onnx.ModelProto, *, seed: int = 0) -> onnx.ModelProto:
    """`model` without its large floating-point initialisers, and without anything that tells where it was made.

    The same model and seed give the same bytes (`SerializeToString(deterministic=True)`). Tensors with an infinite
    number or a NaN in them, such as attention masks, stay as they are; so does everything inside a sub-graph.
    """
    skeleton = without_weights(model)
    del skeleton.graph.initializer[:]
    uses = _first_uses(model.graph)
    recipes: dict[str, TensorRecipe] = {}
    for tensor in model.graph.initializer:
        recipe = _recipe_of(tensor, uses.get(tensor.name))
        if recipe is None:
            kept = onnx.TensorProto()
            kept.CopyFrom(tensor)
            del kept.metadata_props[:]
            kept.ClearField("doc_string")
            skeleton.graph.initializer.append(kept)
        else:
            skeleton.graph.initializer.append(shape_only(tensor))
            recipes[tensor.name] = recipe
    _strip_model(skeleton)
    write_recipes(skeleton, seed, recipes)
    return skeleton


def is_skeleton(path: Path) -> bool:
    """Whether `path` is a skeleton; reads a few hundred bytes, however large the file is."""
    return has_metadata(path, SKELETON_KEY)


def materialise(skeleton: Path, destination: Path, *, batch: int, height: int, width: int) -> None:
    """Write the model that `skeleton` stands for, for one size, with weights that are the same on every platform.

    The file is complete when it appears; while it is made, a few megabytes of it are in memory. Raises InvalidModel
    for a file that is no skeleton or a damaged one, ShapeMismatch for a size that the graph does not take.
    """
    model = read_model(skeleton)
    if SKELETON_KEY not in metadata(model):
        raise InvalidModel(f"{skeleton}: not a skeleton, or a truncated one; make one with scripts/make-skeletons")
    try:
        seed, recipes = read_recipes(model)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidModel(f"{skeleton}: the skeleton is damaged ({error}); make or copy it again") from error
    image_input(model, skeleton)
    frame = frame_for_size(model, skeleton, batch=batch, height=height, width=width)
    kept = [entry for entry in frame.metadata_props if entry.key != SKELETON_KEY]
    del frame.metadata_props[:]
    frame.metadata_props.extend(kept)
    write_model(
        destination, frame, [_stored(tensor, recipes.get(tensor.name), seed) for tensor in model.graph.initializer]
    )


def read_recipes(skeleton: onnx.ModelProto) -> tuple[int, dict[str, TensorRecipe]]:
    """The seed and the tensors' recipes; ValueError unless these account for every tensor that has no data."""
    values = json.loads(metadata(skeleton)[SKELETON_KEY])
    if values["schema"] != SCHEMA:
        raise ValueError(f"schema {values['schema']} is not {SCHEMA}")
    recipes = {name: _recipe_from_json(entry) for name, entry in values["tensors"].items()}
    empty = {tensor.name for tensor in skeleton.graph.initializer if _has_no_data(tensor)}
    if recipes.keys() != empty:
        raise ValueError(f"tensors and recipes differ in {min(recipes.keys() ^ empty)}")
    return int(values["seed"]), recipes


def write_recipes(skeleton: onnx.ModelProto, seed: int, recipes: dict[str, TensorRecipe]) -> None:
    """Put the seed and the recipes into the metadata, as its last entry, so that a file cut short lacks it."""
    entries = {
        name: {"kind": recipe.kind, "gain": recipe.gain, **({"fan_in": recipe.fan_in} if recipe.fan_in > 1 else {})}
        for name, recipe in recipes.items()
    }
    text = json.dumps({"schema": SCHEMA, "seed": seed, "tensors": entries}, separators=(",", ":"))
    others = [entry for entry in skeleton.metadata_props if entry.key != SKELETON_KEY]
    del skeleton.metadata_props[:]
    skeleton.metadata_props.extend(others)
    skeleton.metadata_props.append(onnx.StringStringEntryProto(key=SKELETON_KEY, value=text))


def _has_no_data(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) > 0 and not any(field.name.endswith("_data") for field, _ in tensor.ListFields())


def _stored(tensor: onnx.TensorProto, recipe: TensorRecipe | None, seed: int) -> StoredTensor:
    if recipe is None:
        return StoredTensor(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(tensor.dims)
    return StoredTensor(tensor, count * dtype.itemsize, partial(random_chunks, recipe, tensor.name, seed, count, dtype))


def _recipe_of(tensor: onnx.TensorProto, use: tuple[onnx.NodeProto, int] | None) -> TensorRecipe | None:
    if tensor.data_type not in _DROPPED_TYPES or math.prod(tensor.dims) < SMALLEST_DROPPED:
        return None
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InvalidModel(f"the weights of '{tensor.name}' lie in another file; load them with the model")
    values = onnx.numpy_helper.to_array(tensor)
    if not np.isfinite(values).all():
        return None
    kind = _KINDS_BY_INPUT.get((use[0].op_type, use[1]), "offset") if use else "offset"
    return recipe_for(values, kind, _fan_in(tensor, use) if use and kind == "weight" else 1)


def _fan_in(tensor: onnx.TensorProto, use: tuple[onnx.NodeProto, int]) -> int:
    """How many products are added up for one number of the result."""
    node, index = use
    dims: tuple[int, ...] = tuple(tensor.dims)
    attributes: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Conv":
        return math.prod(dims[1:])
    if node.op_type == "ConvTranspose":
        return math.prod((dims[0], *dims[2:])) // max(attributes.get("group", 1), 1)
    if node.op_type == "Gemm":
        transposed = bool(attributes.get("transA" if index == 0 else "transB", 0))
        return dims[1] if (index == 1) == transposed else dims[0]
    return dims[-1] if index == 0 or len(dims) == 1 else dims[-2]


def _first_uses(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    uses: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            uses.setdefault(name, (node, index))
    return uses


def _strip_model(model: onnx.ModelProto) -> None:
    kept = [entry for entry in model.metadata_props if entry.key.startswith("backbench.")]
    del model.metadata_props[:]
    model.metadata_props.extend(entry for entry in kept if entry.key != SKELETON_KEY)
    model.ClearField("doc_string")
    for function in model.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:]
        del function.value_info[:]
        for node in function.node:
            _strip_node(node)
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.ClearField("doc_string")
    del graph.metadata_props[:]
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        value.ClearField("doc_string")
        del value.metadata_props[:]
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    node.ClearField("doc_string")
    del node.metadata_props[:]
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            _strip_graph(graph)


def _recipe_from_json(entry: dict[str, Any]) -> TensorRecipe:
    gain, fan_in = float(entry["gain"]), int(entry.get("fan_in", 1))
    if entry["kind"] not in KINDS or not math.isfinite(gain) or gain == 0 or fan_in < 1:
        raise ValueError(f"no such recipe: {entry}")
    return TensorRecipe(entry["kind"], gain, fan_in)
