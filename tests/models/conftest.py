"""Models for the tests of the model zoo, each made once, and a way to run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from backbench.models.catalog import skeleton_path
from backbench.models.size_expression import parse_expression
from backbench.models.sized_numbers import Place, SizedNumbers
from backbench.models.skeleton import materialise, skeleton_from_onnx

Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]
SmallModel = Callable[[float], onnx.ModelProto]
TokenModel = Callable[[int, int, int], onnx.ModelProto]

TOKEN_PLACES: dict[Place, str] = {
    ("element", "shape", 0): "n",
    ("element", "shape", 2): "h16*w16",
    ("dim", "position", 1): "h16*w16",
    ("dim", "table", 0): "h16*w16",
    ("bound", "table", 0): "h16*w16",
    ("attribute", 6, "kernel_shape", 0): "h16",
    ("attribute", 6, "kernel_shape", 1): "w16",
}


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mobilenetv3_large_100 at 224x224 with weights."""
    path = tmp_path_factory.mktemp("models") / "mobilenet.onnx"
    materialise(skeleton_path("mobilenetv3_large_100"), path, batch=1, height=224, width=224)
    return path


@pytest.fixture(scope="session")
def outputs() -> Outputs:
    """Runs a model on an image with ONNX Runtime, on one thread."""

    def run(model: onnx.ModelProto | Path, image: NDArray[np.float32]) -> list[NDArray[Any]]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        data = str(model) if isinstance(model, Path) else model.SerializeToString()
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        results: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: image})
        return results

    return run


@pytest.fixture(scope="session")
def small_model() -> SmallModel:
    """A convolution, a scale, an offset and a matrix product, each with more than 100 numbers or with fewer.

    The numbers of `head.bias` are all `poison`.
    """
    return _small_model


def _small_model(poison: float) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    tensors = {
        "conv.weight": rng.standard_normal((64, 3, 3, 3)) * 0.2,
        "conv.bias": np.zeros(64),
        "scale": np.ones((1, 64, 16, 1)),
        "offset": np.zeros((1, 64, 16, 1)),
        "head.weight": rng.standard_normal((64, 500)),
        "head.bias": np.full(500, poison),
    }
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["image", "conv.weight", "conv.bias"], ["a"], pads=[1, 1, 1, 1], doc_string="/home/me/x.py"),
            node("Mul", ["a", "scale"], ["b"]),
            node("Add", ["b", "offset"], ["c"]),
            node("GlobalAveragePool", ["c"], ["d"]),
            node("Flatten", ["d"], ["e"]),
            node("Gemm", ["e", "head.weight", "head.bias"], ["logits"]),
        ],
        "small",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 16, "w"])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 500])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
        doc_string="made in /home/me",
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    model.metadata_props.append(onnx.StringStringEntryProto(key="trace", value="/home/me"))
    model.metadata_props.append(onnx.StringStringEntryProto(key="backbench.model", value="{}"))
    model.graph.node[0].metadata_props.append(onnx.StringStringEntryProto(key="stack", value="/home/me/y.py"))
    return model


@pytest.fixture(scope="session")
def token_model() -> TokenModel:
    """A graph as exporters make it of a transformer: right for one batch, height and width and for no other.

    In cells of 16 pixels its size is in a Reshape's shape, a position embedding, a table of indices and a kernel.
    """
    return _token_model


@pytest.fixture(scope="session")
def token_sizes() -> SizedNumbers:
    """Where the token model depends on its size."""
    return SizedNumbers({place: parse_expression(text) for place, text in TOKEN_PLACES.items()})


@pytest.fixture
def token_skeleton(token_sizes: SizedNumbers) -> onnx.ModelProto:
    """The skeleton of the token model, for any size."""
    return skeleton_from_onnx(_token_model(1, 32, 48), sizes=token_sizes)


def _token_model(batch: int, height: int, width: int) -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    rows, columns = height // 16, width // 16
    tensors = {
        "patch.weight": (rng.standard_normal((24, 3, 16, 16)) * 0.04).astype(np.float32),
        "shape": np.array([batch, 24, rows * columns], np.int64),
        "position": rng.standard_normal((1, rows * columns, 24)).astype(np.float32),
        "table": np.arange(rows * columns, dtype=np.int64),
        "axes": np.array([1], np.int64),
        "head.weight": rng.standard_normal((24, 100)).astype(np.float32),
    }
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["image", "patch.weight"], ["a"], strides=[16, 16]),
            node("Reshape", ["a", "shape"], ["b"]),
            node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
            node("Add", ["c", "position"], ["d"]),
            node("Gather", ["d", "table"], ["e"], axis=1),
            node("ReduceMean", ["e", "axes"], ["f"], keepdims=0),
            node("AveragePool", ["a"], ["g"], kernel_shape=[rows, columns]),
            node("Flatten", ["g"], ["h"]),
            node("Add", ["f", "h"], ["i"]),
            node("MatMul", ["i", "head.weight"], ["logits"]),
        ],
        "tokens",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 100])],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
