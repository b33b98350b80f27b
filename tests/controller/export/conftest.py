"""Small networks with real weights, and converting them; exports by torch within this process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper as oh
import onnx.numpy_helper as onh
import onnxruntime as ort
import pytest

from backbench.controller.export.precision import PrecisionReport, convert
from backbench.controller.export.request import ExportRequest
from backbench.controller.export.torch_model import TorchModel, torch_model
from backbench.models.onnx_input import MODEL_KEY, PREPROCESS_KEY

FACTS = {
    "schema": "backbench.model/1",
    "name": "tiny",
    "weights": "file",
    "precision": "fp32",
    "target": "any",
    "outputs": [{"name": "logits", "kind": "logits"}],
    "quantization": None,
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear", "crop_ratio": 0.9}


def _weights(seed: int, **shapes: Sequence[int]) -> list[onnx.TensorProto]:
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors = []
    for name, shape in shapes.items():
        scale = 1 / math.sqrt(math.prod(shape[1:]))
        tensors.append(onh.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name))
    return tensors


def _model(
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    dims: Sequence[int | str] = (1, 3, 32, 32),
    elem_type: int = onnx.TensorProto.FLOAT,
    facts: dict[str, Any] | None = FACTS,
) -> onnx.ModelProto:
    graph = oh.make_graph(
        nodes,
        "tiny",
        [oh.make_tensor_value_info("image", elem_type, dims)],
        [oh.make_tensor_value_info("logits", elem_type, [dims[0], 10])],
        tensors,
    )
    made = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=9)
    if facts is not None:
        oh.set_model_props(made, {MODEL_KEY: json.dumps(facts), PREPROCESS_KEY: json.dumps(PREPROCESS)})
    return made


def cnn(**more: Any) -> onnx.ModelProto:
    nodes = [
        oh.make_node("Conv", ["image", "w0", "b0"], ["c0"], "stem", strides=[2, 2], pads=[1] * 4),
        oh.make_node("Relu", ["c0"], ["r0"], "relu"),
        oh.make_node("Conv", ["r0", "w1", "b1"], ["c1"], "inner", pads=[1] * 4),
        oh.make_node("Add", ["c1", "r0"], ["a1"], "residual"),
        oh.make_node("HardSwish", ["a1"], ["h1"], "swish"),
        oh.make_node("Conv", ["h1", "w2", "b2"], ["c2"], "last", strides=[2, 2], pads=[1] * 4),
        oh.make_node("GlobalAveragePool", ["c2"], ["p2"], "pool"),
        oh.make_node("Flatten", ["p2"], ["f2"], "flatten"),
        oh.make_node("Gemm", ["f2", "w3", "b3"], ["logits"], "head", transB=1),
    ]
    shapes: dict[str, Sequence[int]] = {
        "w0": (16, 3, 3, 3),
        "b0": (16,),
        "w1": (16, 16, 3, 3),
        "b1": (16,),
        "w2": (32, 16, 3, 3),
        "b2": (32,),
        "w3": (10, 32),
        "b3": (10,),
    }
    return _model(nodes, _weights(1, **shapes), **more)


def transformer() -> onnx.ModelProto:
    nodes = [
        oh.make_node("Conv", ["image", "patch"], ["c"], "embed", kernel_shape=[8, 8], strides=[8, 8]),
        oh.make_node("Reshape", ["c", "tokens"], ["flat"], "tokens"),
        oh.make_node("Transpose", ["flat"], ["x"], "turn", perm=[0, 2, 1]),
        oh.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], "norm"),
        *(oh.make_node("MatMul", ["n", f"w{name}"], [name], f"to_{name}") for name in "qkv"),
        oh.make_node("Transpose", ["k"], ["kt"], "turn_k", perm=[0, 2, 1]),
        oh.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        oh.make_node("Softmax", ["scores"], ["shares"], "softmax", axis=-1),
        oh.make_node("MatMul", ["shares", "v"], ["mixed"], "mix"),
        oh.make_node("Add", ["mixed", "x"], ["y"], "residual"),
        oh.make_node("ReduceMean", ["y", "axis"], ["mean"], "mean", keepdims=0),
        oh.make_node("Gemm", ["mean", "whead", "bhead"], ["logits"], "head", transB=1),
    ]
    tensors = _weights(
        2, patch=(16, 3, 8, 8), beta=(16,), wq=(16, 16), wk=(16, 16), wv=(16, 16), whead=(10, 16), bhead=(10,)
    )
    tensors += [
        onh.from_array(np.ones(16, np.float32), "gamma"),
        onh.from_array(np.array([1, 16, 16], np.int64), "tokens"),
        onh.from_array(np.array([1], np.int64), "axis"),
    ]
    return _model(nodes, tensors)


def with_first_weights(value: float) -> onnx.ModelProto:
    made = cnn()
    made.graph.initializer[0].CopyFrom(onh.from_array(np.full((16, 3, 3, 3), value, np.float32), "w0"))
    return made


def saved(made: onnx.ModelProto, folder: Path, name: str = "source.onnx") -> Path:
    (folder / name).write_bytes(made.SerializeToString())
    return folder / name


def converted(made: onnx.ModelProto, folder: Path, *how: Any, **more: Any) -> tuple[onnx.ModelProto, PrecisionReport]:
    report = convert(saved(made, folder), folder / "result.onnx", *how, **more)
    result = onnx.load(str(folder / "result.onnx"))
    onnx.checker.check_model(result, full_check=True)
    return result, report


def quantizers(result: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.TensorProto, onnx.TensorProto]]:
    """Every QuantizeLinear and DequantizeLinear with its scale and its zero point."""
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    return [
        (node, tensors[node.input[1]], tensors[node.input[2]])
        for node in result.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]


class Graphs:
    """The networks of this file, and what is done with them."""

    facts = FACTS
    preprocess = PREPROCESS
    cnn = staticmethod(cnn)
    transformer = staticmethod(transformer)
    with_first_weights = staticmethod(with_first_weights)
    saved = staticmethod(saved)
    converted = staticmethod(converted)
    quantizers = staticmethod(quantizers)


@pytest.fixture(scope="session")
def graphs() -> Graphs:
    """Builders of small networks, and conversion with a check of the result."""
    return Graphs()


Fresh = Callable[[ExportRequest], "FreshExport"]


@dataclass(frozen=True)
class FreshExport:
    """A torch module, and the ONNX model that was just made of it in this process."""

    torch: TorchModel
    onnx: onnx.ModelProto

    def session(self) -> Any:
        """ONNX Runtime on one thread."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return ort.InferenceSession(self.onnx.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def worst_error(self, height: int, width: int, batch: int = 1) -> float:
        """The largest difference between ONNX Runtime and torch over torch's largest number, on noise."""
        import torch

        noise = np.random.default_rng(7).standard_normal((batch, 3, height, width)).astype(np.float32)
        with torch.no_grad():
            produced = self.torch.module(torch.from_numpy(noise))
        listed = list(produced) if isinstance(produced, (list, tuple)) else [produced]
        results = self.session().run(None, {"image": noise})
        return max(
            float(np.abs(result - wanted.numpy()).max() / np.abs(wanted.numpy()).max())
            for result, wanted in zip(results, listed, strict=True)
        )


@pytest.fixture(scope="session")
def fresh(timm: Any) -> Fresh:
    """Exports in this process, each once; a test that uses it has to ignore torch's warnings."""
    made: dict[ExportRequest, FreshExport] = {}

    def exported(request: ExportRequest) -> FreshExport:
        from backbench.controller.export.torch_export import onnx_from_torch

        if request not in made:
            model = torch_model(timm, request)
            made[request] = FreshExport(model, onnx_from_torch(model, request))
        return made[request]

    return exported
