"""What an ONNX file takes and gives, and fixing its input to one size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import onnx
import onnx.checker
import onnx.shape_inference

from backbench.domain.errors import InvalidModel, ShapeMismatch
from backbench.domain.preprocess import Interpolation, Preprocess
from backbench.models.external_data import Bundle, read_bundle
from backbench.models.onnx_file import FLOAT_TYPES, first_line, is_bulk, shown, write_model

PREPROCESS_KEY = "backbench.preprocess"
MODEL_KEY = "backbench.model"
SKELETON_KEY = "backbench.skeleton"

Dim = int | str
"""A fixed length, or the name of a symbolic one ("?" where it has none)."""

_IMAGE_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_WIDTHS = {
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.DOUBLE: 8,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.UINT8: 1,
    onnx.TensorProto.INT32: 4,
    onnx.TensorProto.INT64: 8,
}


@dataclass(frozen=True, slots=True)
class OutputContract:
    """One output of a model."""

    name: str
    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class InputContract:
    """What a model takes and gives; `parameters` counts its floating-point initialisers' numbers.

    `external` are the paths of the files in which it keeps weights, from its own folder. `preprocess` is None where the
    file does not state how an image becomes its input, `precision` where it does not state its own.
    """

    name: str
    dims: tuple[Dim, Dim, Dim, Dim]
    dtype: str
    outputs: tuple[OutputContract, ...]
    opset: int
    preprocess: Preprocess | None
    parameters: int
    skeleton: bool
    precision: str | None = None
    target: str | None = None
    external: tuple[str, ...] = ()


def inspect_input(path: Path) -> InputContract:
    """What the model in `path` takes and gives; raises InvalidModel for a file that cannot be profiled."""
    bundle = read_bundle(path)
    model = bundle.model
    image = image_input(model, path)
    skeleton = SKELETON_KEY in metadata(model)
    if not skeleton:
        _check(bundle, path)
    batch, channels, height, width = dims_of(image)
    facts = model_facts(model, path)
    precision, target = facts.get("precision"), facts.get("target")
    return InputContract(
        name=image.name,
        dims=(batch, channels, height, width),
        dtype=onnx.TensorProto.DataType.Name(image.type.tensor_type.elem_type).lower(),
        outputs=tuple(OutputContract(output.name, dims_of(output)) for output in model.graph.output),
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        preprocess=_preprocess(model, path),
        parameters=sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in FLOAT_TYPES),
        skeleton=skeleton,
        precision=precision if precision in ("fp32", "fp16", "int8") else None,
        target=target if isinstance(target, str) else None,
        external=bundle.locations,
    )


def onnx_for_size(
    source: Path,
    destination: Path,
    *,
    batch: int,
    height: int,
    width: int,
    files: Mapping[str, Path] | None = None,
) -> None:
    """Write the model in `source` with its input fixed to (batch, 3, height, width), its weights all in one file.

    `files` are those in which it keeps weights, by location; without them, those beside it. Raises InvalidModel for a
    file that cannot be profiled and ShapeMismatch, saying what the model takes, where one of its fixed dimensions
    differs or its graph does not work at this size.
    """
    bundle = read_bundle(source, files)
    image_input(bundle.model, source)
    if SKELETON_KEY in metadata(bundle.model):
        raise InvalidModel(f"{source}: this is a skeleton, which has no weights; materialise it instead")
    _check(bundle, source)
    frame = frame_for_size(bundle.model, source, batch=batch, height=height, width=width)
    write_model(destination, frame, bundle.stored())


def frame_for_size(model: onnx.ModelProto, path: Path, *, batch: int, height: int, width: int) -> onnx.ModelProto:
    """`model` for one size, without initialisers and intermediate shapes, its outputs' shapes worked out."""
    frame = sized_model(model, path, batch=batch, height=height, width=width)
    del frame.graph.initializer[:]
    del frame.graph.value_info[:]
    return frame


def sized_model(model: onnx.ModelProto, path: Path, *, batch: int, height: int, width: int) -> onnx.ModelProto:
    """`model` for one size, its large initialisers without their numbers, every intermediate shape worked out.

    Raises ShapeMismatch, saying what the model takes, for a size that it does not take.
    """
    check_dims(model, path, batch=batch, height=height, width=width)
    frame = without_weights(model)
    asked = (batch, 3, height, width)
    dims = dims_of(image_input(frame, path))
    symbols = {have: want for have, want in zip(dims, asked, strict=True) if isinstance(have, str) and have != "?"}
    for value in [*frame.graph.input, *frame.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
    for dim, side in zip(image_input(frame, path).type.tensor_type.shape.dim, asked, strict=True):
        dim.dim_value = side
    try:
        return onnx.shape_inference.infer_shapes(frame, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ShapeMismatch(f"{path}: the graph does not work at {height}x{width} ({first_line(error)})") from error
    except (ValueError, RuntimeError) as error:
        raise InvalidModel(
            f"{path}: not a sound ONNX model ({first_line(error)}); export or copy the model again"
        ) from error


def check_dims(model: onnx.ModelProto, path: Path, *, batch: int, height: int, width: int) -> None:
    """Raise ShapeMismatch, saying what the model takes, where a fixed dimension of its input differs."""
    asked, dims = (batch, 3, height, width), dims_of(image_input(model, path))
    if min(asked) < 1 or any(isinstance(have, int) and have != want for have, want in zip(dims, asked, strict=True)):
        taken = shown("x".join(str(dim) for dim in dims))
        wanted = "x".join(str(side) for side in asked)
        raise ShapeMismatch(f"{path}: the model takes {taken} (batch x channels x height x width), not {wanted}")


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose large initialisers have a type and a shape only, and which has no intermediate shapes."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated:
            getattr(copy, field.name).extend(value)
        else:
            setattr(copy, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name in ("initializer", "value_info"):
            continue
        if field.is_repeated:
            getattr(copy.graph, field.name).extend(value)
        else:
            setattr(copy.graph, field.name, value)
    for tensor in model.graph.initializer:
        copy.graph.initializer.append(shape_only(tensor) if is_bulk(tensor) else tensor)
    return copy


def shape_only(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """`tensor`'s name, type and shape, without its numbers."""
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The model's own key-value pairs."""
    return {entry.key: entry.value for entry in model.metadata_props}


def image_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """The one image input, float NCHW with three channels; raises InvalidModel where there is none such."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        found = shown(", ".join(value.name for value in inputs)) or "none"
        raise InvalidModel(f"{path}: it must have one input, an image; it has {len(inputs)} ({found})")
    tensor = inputs[0].type.tensor_type
    dims = dims_of(inputs[0])
    if tensor.elem_type not in _IMAGE_TYPES or len(dims) != 4 or dims[1] != 3:
        known = tensor.elem_type in onnx.TensorProto.DataType.values()
        dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if known else f"type {tensor.elem_type}"
        shape = "x".join(str(dim) for dim in dims) or "no shape"
        raise InvalidModel(
            f"{path}: its input '{shown(inputs[0].name)}' is {dtype} {shown(shape)}; export it with a float image"
            " input, batch x 3 x height x width"
        )
    return inputs[0]


def dims_of(value: onnx.ValueInfoProto) -> tuple[Dim, ...]:
    """A value's dimensions, each a length or the name of one."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim
    )


def is_cut_short(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's bytes are fewer than its shape needs."""
    needed = math.prod(tensor.dims) * _WIDTHS.get(tensor.data_type, 0)
    return bool(tensor.HasField("raw_data")) and len(tensor.raw_data) < needed


def _check(bundle: Bundle, path: Path) -> None:
    """Compare the weights' bytes with their shapes (not every onnx release does) and the graph with onnx's rules."""
    for tensor in bundle.model.graph.initializer:
        if is_cut_short(tensor):
            raise InvalidModel(
                f"{path}: the weights of '{shown(tensor.name)}' are cut short; export or copy the model again"
            )
    try:
        onnx.checker.check_model(bundle.checkable())
    except (onnx.checker.ValidationError, ValueError) as error:
        words, remedy = first_line(error), "export or copy the model again"
        if "No Op registered" in words:
            remedy = f"onnx {onnx.__version__} knows no such operator: export the model without it, or update onnx"
        raise InvalidModel(f"{path}: not a sound ONNX model ({words}); {remedy}") from error


def model_facts(model: onnx.ModelProto, path: Path) -> dict[str, Any]:
    """What the model's metadata says of it under `backbench.model`; empty where it says nothing.

    Raises InvalidModel where that is no JSON object.
    """
    text = metadata(model).get(MODEL_KEY)
    if text is None:
        return {}
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(
            f"{path}: its metadata '{MODEL_KEY}' is not JSON ({first_line(error)}); remove it"
        ) from error
    if not isinstance(facts, dict):
        raise InvalidModel(f"{path}: its metadata '{MODEL_KEY}' is not a JSON object; remove it")
    return facts


def _preprocess(model: onnx.ModelProto, path: Path) -> Preprocess | None:
    text = metadata(model).get(PREPROCESS_KEY)
    if text is None:
        return None
    try:
        return _preprocess_from_json(json.loads(text))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidModel(
            f"{path}: its metadata '{PREPROCESS_KEY}' cannot be used ({first_line(error)}); correct or remove it"
        ) from error


def _preprocess_from_json(values: dict[str, Any]) -> Preprocess:
    red, green, blue = (float(number) for number in values["mean"])
    red_std, green_std, blue_std = (float(number) for number in values["std"])
    crop_ratio, interpolation = float(values["crop_ratio"]), values["interpolation"]
    numbers = (red, green, blue, red_std, green_std, blue_std)
    if not all(map(math.isfinite, numbers)) or min(red_std, green_std, blue_std) <= 0 or not 0 < crop_ratio <= 1:
        raise ValueError("a number is out of range")
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"interpolation is one of {', '.join(get_args(Interpolation))}")
    return Preprocess((red, green, blue), (red_std, green_std, blue_std), interpolation, crop_ratio)
