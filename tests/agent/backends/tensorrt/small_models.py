"""ONNX models of a few layers, for the tests of TensorRT's backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 3, 16, 16)


def model(
    nodes: list[Any], initializers: list[Any], shape: tuple[int | str, ...] = SHAPE, *, output: tuple[int | str, ...]
) -> bytes:
    """A model from "image" to "output", both float32."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(output))],
        initializers,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def _weights(count: int = 8) -> Any:
    values = np.random.Generator(np.random.PCG64(0)).standard_normal((count, 3, 3, 3), np.float32)
    return numpy_helper.from_array(values, "weights")


def convolution(shape: tuple[int | str, ...] = SHAPE, operator: str = "Relu") -> bytes:
    """A convolution, an operator and a mean over the plane."""
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["features"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node(operator, ["features"], ["active"], name="act"),
        helper.make_node("GlobalAveragePool", ["active"], ["output"], name="mean"),
    ]
    return model(nodes, [_weights()], shape, output=(shape[0], 8, 1, 1))


def quantized() -> bytes:
    """A convolution whose two factors come from int8 by QuantizeLinear and DequantizeLinear."""
    scalars = {"scale": np.float32(0.05), "zero": np.int8(0)}
    nodes = []
    for name in ("image", "weights"):
        nodes += [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"], name=f"q_{name}"),
            helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"], name=f"d_{name}"),
        ]
    nodes += [
        helper.make_node("Conv", ["image_d", "weights_d"], ["features"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["features"], ["output"], name="mean"),
    ]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in scalars.items()]
    return model(nodes, [_weights(), *held], output=(1, 8, 1, 1))


def half() -> bytes:
    """A convolution in fp16 between casts: float32 goes in and comes out."""
    weights = numpy_helper.from_array(numpy_helper.to_array(_weights()).astype(np.float16), "weights")
    nodes = [
        helper.make_node("Cast", ["image"], ["image_h"], name="narrow", to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["image_h", "weights"], ["features"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["features"], ["mean_h"], name="mean"),
        helper.make_node("Cast", ["mean_h"], ["output"], name="widen", to=TensorProto.FLOAT),
    ]
    return model(nodes, [weights], output=(1, 8, 1, 1))


def two_inputs() -> bytes:
    """The sum of two images."""
    names = ["image", "other"]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(SHAPE)) for name in (*names, "output")]
    graph = helper.make_graph([helper.make_node("Add", names, ["output"], name="sum")], "two", values[:2], values[2:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def written(folder: Path, data: bytes) -> str:
    """The path of a file with it."""
    path = folder / "model.onnx"
    path.write_bytes(data)
    return str(path)


def found_places() -> bytes:
    """Where an image is not zero: how many places that are, only the model itself finds."""
    values = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, list(SHAPE)),
        helper.make_tensor_value_info("output", TensorProto.INT64, [4, "found"]),
    ]
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["image"], ["output"], name="places")], "places", values[:1], values[1:]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data
