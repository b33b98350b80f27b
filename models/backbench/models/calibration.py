"""Setting a skeleton's gains so that its activations neither grow nor fade from layer to layer.

A tensor's own spread is a poor gain: trained weights and biases lean on each other (a bias takes away the mean that
the layer before left), random ones do not, and in a deep network what is left over multiplies. So the graph is walked
once, operator by operator, on noise, and each weight's gain is divided by the spread of what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference
from numpy.typing import NDArray

from backbench.models.onnx_input import SKELETON_KEY, dims_of, image_input
from backbench.models.random_weights import TensorRecipe, random_chunks
from backbench.models.size_expression import InputSize
from backbench.models.skeleton import read_recipes, skeleton_for_size, write_recipes
from backbench.models.tensor_use import QUANTIZERS

Array = NDArray[Any]
Run = Callable[[onnx.ModelProto, Mapping[str, Array]], list[Array]]
"""Runs a model of one operator; the reference evaluator by default, ONNX Runtime where it is at hand."""

_GAIN_DIGITS = 3
_BATCH = 2


def run_by_reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Run `model` with the reference evaluator of the onnx package: slow, and always there."""
    outputs: list[Array] = onnx.reference.ReferenceEvaluator(model).run(None, dict(feeds))
    return outputs


def calibrated(
    skeleton: onnx.ModelProto, *, height: int = 128, width: int = 128, run: Run = run_by_reference
) -> onnx.ModelProto:
    """A copy of `skeleton` in which every convolution and matrix product gives numbers with a root mean square near 1.

    Only the gains change. They are kept to three digits, so that another library's last bit does not show in them. The
    size is the one of the noise; where the skeleton takes one size only, it is that one. A weight whose first use is a
    quantizer keeps its gain, because the quantizer's scale, which stays, was chosen for it.
    """
    path = Path("skeleton")
    size = _size_of_noise(skeleton, path, height, width)
    model, seed, _ = skeleton_for_size(skeleton, path, size)
    _, recipes, sizes = read_recipes(skeleton)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    values: dict[str, Array] = {
        name: _numbers(tensor, recipes[name], seed) if name in recipes else onnx.numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
    }
    image = image_input(skeleton, path)
    values[image.name] = _noise(image, size, seed)
    last_use = {name: place for place, node in enumerate(model.graph.node) for name in node.input}
    settled: set[str] = set()
    for place, node in enumerate(model.graph.node):
        for name in node.input:
            if (
                name in recipes
                and recipes[name].kind == "weight"
                and node.op_type not in QUANTIZERS
                and name not in settled
            ):
                settled.add(name)
                recipes[name] = _settled(recipes[name], _without_bias(node), skeleton, values, run)
                values[name] = _numbers(tensors[name], recipes[name], seed)
        values.update(zip(node.output, _evaluate(node, skeleton, values, run), strict=True))
        for name in node.input:
            if last_use[name] == place:
                values.pop(name, None)
    copy = onnx.ModelProto()
    copy.CopyFrom(skeleton)
    write_recipes(copy, seed, recipes, sizes)
    return copy


def _size_of_noise(skeleton: onnx.ModelProto, path: Path, height: int, width: int) -> InputSize:
    """The size asked for, save in what the skeleton has fixed."""
    batch, _, high, wide = dims_of(image_input(skeleton, path))
    wanted = zip((batch, high, wide), (_BATCH, height, width), strict=True)
    return InputSize(*(have if isinstance(have, int) else want for have, want in wanted))


def _settled(
    recipe: TensorRecipe, node: onnx.NodeProto, skeleton: onnx.ModelProto, values: dict[str, Array], run: Run
) -> TensorRecipe:
    result = _evaluate(node, skeleton, values, run)[0].astype(np.float64)
    spread = math.sqrt(float(np.mean(np.square(result))))
    if not math.isfinite(spread) or spread == 0:
        return recipe
    return replace(recipe, gain=float(f"{recipe.gain / spread:.{_GAIN_DIGITS}g}"))


def _without_bias(node: onnx.NodeProto) -> onnx.NodeProto:
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
        del bare.input[2:]
    return bare


def _evaluate(node: onnx.NodeProto, skeleton: onnx.ModelProto, values: dict[str, Array], run: Run) -> list[Array]:
    feeds = {name: values[name] for name in node.input if name}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "operator", inputs, outputs),
        opset_imports=list(skeleton.opset_import),
        functions=list(skeleton.functions),
        ir_version=skeleton.ir_version,
    )
    return run(model, feeds)


def _numbers(tensor: onnx.TensorProto, recipe: TensorRecipe, seed: int) -> Array:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    data = b"".join(random_chunks(recipe, tensor.name, seed, math.prod(tensor.dims), dtype))
    return np.frombuffer(data, dtype=dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(tuple(tensor.dims))


def _noise(image: onnx.ValueInfoProto, size: InputSize, seed: int) -> Array:
    """Numbers with a mean of 0 and a deviation of 1, in the shape of the input."""
    dims = [dim.dim_value or size.batch for dim in image.type.tensor_type.shape.dim]
    dims[2:] = [size.height, size.width]
    tensor = onnx.TensorProto(name=f"{SKELETON_KEY}.noise", data_type=image.type.tensor_type.elem_type, dims=dims)
    return _numbers(tensor, TensorRecipe("offset", 1.0), seed)
