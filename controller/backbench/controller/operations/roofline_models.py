"""Two small models that a device's peak rates are read from: one that only computes, one that only moves bytes.

The first is a chain of 1x1 convolutions, which are matrix products on operands that stay in cache, and travels as a
skeleton. The second is a chain of element-wise operators on one tensor far larger than a cache. ONNX Runtime runs each
of them by itself, so every one reads and writes the tensor; a backend that fuses such a chain would move less than is
counted here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from backbench.models.skeleton import skeleton_from_onnx

_OPSET, _IR_VERSION = 18, 9
_FLOAT_BYTES = 4
_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the two models are and how often they run. `tensor_bytes` None suits the device's memory."""

    channels: int = 512
    side: int = 28
    layers: int = 8
    tensor_bytes: int | None = None
    steps: int = 8
    frames: int = 30
    warmup: int = 3


@dataclass(frozen=True, slots=True)
class RooflineModel:
    """A model on a square image of `side` pixels; `work` is its floating-point operations or its bytes a frame."""

    name: str
    model: onnx.ModelProto
    source: str
    side: int
    work: int


def compute_bound(sizes: Sizes) -> RooflineModel:
    """Convolutions whose work is counted with 2 operations a multiply-accumulate; the pooling at the end is not."""
    channels, side = sizes.channels, sizes.side
    nodes, tensors, name = [], [], "image"
    for layer in range(sizes.layers):
        fan_in = channels if layer else 3
        # A skeleton keeps the spread alone: random numbers that neither grow nor shrink from layer to layer.
        weights = np.full((channels, fan_in, 1, 1), 1 / math.sqrt(fan_in), np.float32)
        tensors.append(onnx.numpy_helper.from_array(weights, f"weights_{layer}"))
        nodes.append(onnx.helper.make_node("Conv", [name, f"weights_{layer}"], [f"features_{layer}"]))
        name = f"features_{layer}"
    nodes.append(onnx.helper.make_node("GlobalAveragePool", [name], ["output"]))
    model = _model(nodes, side, [1, channels, 1, 1], tensors)
    products = channels * side * side * (3 + channels * (sizes.layers - 1))
    return RooflineModel("roofline-compute", skeleton_from_onnx(model), "skeleton", side, 2 * products)


def memory_bound(sizes: Sizes, tensor_bytes: int) -> RooflineModel:
    """Operators that each read the tensor once and write it once, which is the work that is counted."""
    side = max(1, math.isqrt(tensor_bytes // (3 * _FLOAT_BYTES)))
    names = ["image", *(f"features_{step}" for step in range(1, sizes.steps)), "output"]
    nodes = [
        onnx.helper.make_node("Relu" if step % 2 else "Abs", [names[step]], [names[step + 1]])
        for step in range(sizes.steps)
    ]
    model = _model(nodes, side, [1, 3, side, side], [])
    return RooflineModel("roofline-memory", model, "file", side, 2 * sizes.steps * 3 * side * side * _FLOAT_BYTES)


def tensor_bytes_for(memory_bytes: int | None) -> int:
    """How large the tensor is to be: beyond the caches that go with so much memory.

    The worker takes up to seven of it, as ONNX Runtime plans its buffers anew after the first inference: about 480 MB
    for the 64 MiB of a board with 2 GiB and more, 170 MB for the 16 MiB of a smaller one. Servers' caches may hold 64.
    """
    if memory_bytes is None or memory_bytes < 2 * _GIB * 0.8:  # what firmware and kernel keep does not count
        return 16 * _MIB
    return 192 * _MIB if memory_bytes >= 16 * _GIB else 64 * _MIB


def _model(
    nodes: list[onnx.NodeProto], side: int, output: list[int], tensors: list[onnx.TensorProto]
) -> onnx.ModelProto:
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, side, side])
    result = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, output)
    graph = onnx.helper.make_graph(nodes, "roofline", [image], [result], tensors)
    opset = onnx.helper.make_opsetid("", _OPSET)
    return onnx.helper.make_model(graph, producer_name="backbench", opset_imports=[opset], ir_version=_IR_VERSION)
