"""Skeletons: an ONNX graph without its weights, and the weights' random stand-ins.

A skeleton is a plain ONNX file in which a large initialiser has a name, a type and a shape but no data, and whose
metadata holds, under `backbench.skeleton`, one recipe a tensor, a seed, and the numbers of the graph that depend on the
input's size (JSON, schema `backbench.skeleton/2`). No runtime accepts it; `materialise` makes the model that one does.
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

from backbench.domain.errors import InvalidModel, ShapeMismatch
from backbench.models.hygiene import strip
from backbench.models.onnx_file import StoredTensor, first_line, has_metadata, read_model, shown, write_model
from backbench.models.onnx_input import (
    MODEL_KEY,
    SKELETON_KEY,
    check_dims,
    frame_for_size,
    is_cut_short,
    metadata,
    model_facts,
    shape_only,
    without_weights,
)
from backbench.models.random_weights import Kind, TensorRecipe, random_chunks, recipe_for
from backbench.models.size_expression import InputSize
from backbench.models.sized_numbers import SizedNumbers, SizeOutOfReach, apply_sizes, sizes_from_json, sizes_to_json
from backbench.models.tensor_use import TensorUses

SCHEMA = "backbench.skeleton/2"
SMALLEST_DROPPED = 100
"""Numbers; a tensor with fewer keeps them."""

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
_BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
_INDICES = (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
_TYPES: dict[Kind, tuple[int, ...]] = {
    "weight": _FLOATS,
    "offset": _FLOATS,
    "scale": _FLOATS,
    "integer": _BYTES,
    "index": _INDICES,
}
_GAINS = {"integer": (1, 127), "index": (1, 1 << 31)}
_USUAL_GAINS = (1e-30, 1e30)

Recipes = dict[str, TensorRecipe]


def skeleton_from_onnx(model: onnx.ModelProto, *, seed: int = 0, sizes: SizedNumbers | None = None) -> onnx.ModelProto:
    """`model` without its large initialisers, and without anything that tells where it was made.

    The same model and seed give the same bytes (`SerializeToString(deterministic=True)`). Dropped are floating-point
    tensors and the weights of quantized operators; a quantizer's scales and zero points stay, and so do tensors with an
    infinite number or a NaN in them, such as attention masks, and everything inside a sub-graph. `sizes` names the
    numbers that depend on the input's size; tables of indices among them are replaced, too. Raises InvalidModel where
    a tensor would have to be kept and to change its shape.
    """
    skeleton = without_weights(model)
    del skeleton.graph.initializer[:]
    uses = TensorUses(model.graph)
    sized = sizes.tensors() if sizes else frozenset()
    recipes: Recipes = {}
    for tensor in model.graph.initializer:
        recipe = _recipe_of(tensor, uses, resized=tensor.name in sized)
        if recipe is None and tensor.name in sized:
            raise InvalidModel(
                f"the shape of '{shown(tensor.name)}' depends on the size, and its numbers cannot be made anew"
            )
        if recipe is None:
            kept = onnx.TensorProto()
            kept.CopyFrom(tensor)
            skeleton.graph.initializer.append(kept)
        else:
            skeleton.graph.initializer.append(shape_only(tensor))
            recipes[tensor.name] = recipe
    own = [entry for entry in skeleton.metadata_props if entry.key != SKELETON_KEY]
    del skeleton.metadata_props[:]
    skeleton.metadata_props.extend(own)
    strip(skeleton)
    write_recipes(skeleton, seed, recipes, sizes)
    return skeleton


def is_skeleton(path: Path) -> bool:
    """Whether `path` is a skeleton; reads a few hundred bytes, however large the file is."""
    return has_metadata(path, SKELETON_KEY)


def materialise(skeleton: Path, destination: Path, *, batch: int, height: int, width: int) -> None:
    """Write the model that `skeleton` stands for, for one size, with weights that are the same on every platform.

    The file is complete when it appears; while it is made, a few megabytes of it are in memory. Raises InvalidModel
    for a file that is no skeleton or a damaged one, ShapeMismatch for a size that the graph does not take.
    """
    model, seed, recipes = skeleton_for_size(read_model(skeleton), skeleton, InputSize(batch, height, width))
    frame = frame_for_size(model, skeleton, batch=batch, height=height, width=width)
    kept = [entry for entry in frame.metadata_props if entry.key != SKELETON_KEY]
    del frame.metadata_props[:]
    frame.metadata_props.extend(kept)
    _state_dims(frame, skeleton, [batch, 3, height, width])
    write_model(
        destination,
        frame,
        [stored_tensor(tensor, recipes.get(tensor.name), seed) for tensor in model.graph.initializer],
    )


def skeleton_for_size(skeleton: onnx.ModelProto, path: Path, size: InputSize) -> tuple[onnx.ModelProto, int, Recipes]:
    """The skeleton with its numbers set for one size, its seed, and the tensors' recipes.

    Raises InvalidModel for what is no skeleton or a damaged one, ShapeMismatch for a size that it does not take.
    """
    if SKELETON_KEY not in metadata(skeleton):
        raise InvalidModel(f"{path}: not a skeleton, or a truncated one; make one with scripts/make-skeletons")
    try:
        seed, recipes, sizes = read_recipes(skeleton)
        check_dims(skeleton, path, batch=size.batch, height=size.height, width=size.width)
        model = apply_sizes(skeleton, sizes, size)
        bounds = {name: TensorRecipe("index", bound) for name, bound in sizes.bounds(size).items()}
    except SizeOutOfReach as error:
        at = f"{size.height}x{size.width}, batch {size.batch}"
        raise ShapeMismatch(f"{path}: the graph does not work at {at} ({error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InvalidModel(f"{path}: the skeleton is damaged ({first_line(error)}); make or copy it again") from error
    return model, seed, {**recipes, **bounds}


def read_recipes(skeleton: onnx.ModelProto) -> tuple[int, Recipes, SizedNumbers]:
    """The seed, the tensors' recipes, and what depends on the size.

    ValueError unless the recipes account for every tensor that has no data, and the other tensors have all of theirs.
    """
    values = json.loads(metadata(skeleton)[SKELETON_KEY])
    if values["schema"] != SCHEMA:
        raise ValueError(f"schema {values['schema']} is not {SCHEMA}")
    recipes = {name: _recipe_from_json(entry) for name, entry in values["tensors"].items()}
    empty = {tensor.name for tensor in skeleton.graph.initializer if _has_no_data(tensor)}
    if recipes.keys() != empty:
        raise ValueError(f"tensors and recipes differ in {_short(min(recipes.keys() ^ empty))}")
    for tensor in skeleton.graph.initializer:
        _check_tensor(tensor, recipes.get(tensor.name))
    sizes = sizes_from_json(values.get("sizes", {}))
    for place in sizes.places:
        _check_place(str(place[0]), str(place[1]), recipes)
    return int(values["seed"]), recipes, sizes


def write_recipes(skeleton: onnx.ModelProto, seed: int, recipes: Recipes, sizes: SizedNumbers | None) -> None:
    """Put all of it into the metadata, as its last entry, so that a file cut short lacks it."""
    entries = {
        name: {"kind": recipe.kind, "gain": recipe.gain, **({"fan_in": recipe.fan_in} if recipe.fan_in > 1 else {})}
        for name, recipe in recipes.items()
    }
    values: dict[str, Any] = {"schema": SCHEMA, "seed": seed, "tensors": entries}
    if sizes:
        values["sizes"] = sizes_to_json(sizes)
    others = [entry for entry in skeleton.metadata_props if entry.key != SKELETON_KEY]
    del skeleton.metadata_props[:]
    skeleton.metadata_props.extend(others)
    text = json.dumps(values, separators=(",", ":"))
    skeleton.metadata_props.append(onnx.StringStringEntryProto(key=SKELETON_KEY, value=text))


def stored_tensor(tensor: onnx.TensorProto, recipe: TensorRecipe | None, seed: int) -> StoredTensor:
    """An initialiser of a skeleton on its way into a file, its numbers made while they are written."""
    if recipe is None:
        return StoredTensor(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(tensor.dims)
    return StoredTensor(tensor, count * dtype.itemsize, partial(random_chunks, recipe, tensor.name, seed, count, dtype))


def _state_dims(model: onnx.ModelProto, path: Path, dims: list[int]) -> None:
    """Let a model that describes itself state the size that it was made for, which is not the skeleton's."""
    facts = model_facts(model, path)
    if not isinstance(facts.get("input"), dict):
        return
    facts["input"]["dims"] = dims
    for entry in model.metadata_props:
        if entry.key == MODEL_KEY:
            entry.value = json.dumps(facts, sort_keys=True)


def _has_no_data(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) > 0 and not any(field.name.endswith("_data") for field, _ in tensor.ListFields())


def _recipe_of(tensor: onnx.TensorProto, uses: TensorUses, *, resized: bool) -> TensorRecipe | None:
    """How to make the tensor's numbers again; None where they have to be kept."""
    if math.prod(tensor.dims) < SMALLEST_DROPPED and not resized:
        return None
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise InvalidModel(f"the weights of '{shown(tensor.name)}' lie in another file; load them with the model")
    if tensor.data_type in _BYTES:
        return recipe_for(_array(tensor), "integer", 1) if uses.is_quantized_weight(tensor.name) else None
    if tensor.data_type not in _FLOATS:
        return recipe_for(_array(tensor), "index", 1) if resized else None
    values = _array(tensor)
    if uses.is_quantizer_setting(tensor.name) or not np.isfinite(values).all():
        return None
    kind = uses.kind(tensor.name)
    return recipe_for(values, kind, uses.fan_in(tensor) if kind == "weight" else 1)


def _array(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = onnx.numpy_helper.to_array(tensor)
    return array


def _recipe_from_json(entry: dict[str, Any]) -> TensorRecipe:
    gain, fan_in = float(entry["gain"]), int(entry.get("fan_in", 1))
    whole = entry["kind"] in _GAINS
    lowest, highest = _GAINS.get(entry["kind"], _USUAL_GAINS)
    if entry["kind"] not in _TYPES or not lowest <= (gain if whole else abs(gain)) <= highest or fan_in < 1:
        raise ValueError(f"there is no such recipe: {_short(entry)}")
    if whole and not gain.is_integer():
        raise ValueError(f"there is no such recipe: {_short(entry)}")
    return TensorRecipe(entry["kind"], gain, fan_in)


def _check_tensor(tensor: onnx.TensorProto, recipe: TensorRecipe | None) -> None:
    if min(tensor.dims, default=1) < 0 or is_cut_short(tensor):
        raise ValueError(f"the numbers of {_short(tensor.name)} do not fill its shape")
    if recipe is not None and tensor.data_type not in _TYPES[recipe.kind]:
        raise ValueError(f"the recipe of {_short(tensor.name)} is for another type of numbers")


def _check_place(kind: str, name: str, recipes: Recipes) -> None:
    """Only a tensor that is made anew can change its shape, and only one that is not has elements to change."""
    made = name in recipes
    fits = {"dim": made, "element": not made, "bound": made and recipes[name].kind == "index"}
    if not fits.get(kind, True):
        raise ValueError(f"{_short(name)} has no {kind} to change")


def _short(thing: object) -> str:
    return repr(thing)[:80]
