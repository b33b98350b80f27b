"""The two models of a roofline: what they count is what ONNX Runtime does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from backbench.controller.operations.roofline_models import Sizes, compute_bound, memory_bound, tensor_bytes_for
from backbench.models.onnx_input import inspect_input
from backbench.models.skeleton import materialise

GIB = 1 << 30


def executed(model: Path, folder: Path) -> list[str]:
    """The operators that ONNX Runtime executes, in order, after it has optimised the graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "executed.onnx")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    (output,) = session.run(None, {image.name: np.ones(image.shape, np.float32)})
    assert np.isfinite(output).all()
    return [node.op_type for node in onnx.load(folder / "executed.onnx").graph.node]


def test_no_operator_of_the_memory_bound_model_is_fused_or_left_out(tmp_path: Path) -> None:
    model = memory_bound(Sizes(steps=6), 3 * 64 * 64 * 4)
    (tmp_path / "model.onnx").write_bytes(model.model.SerializeToString())
    assert executed(tmp_path / "model.onnx", tmp_path) == ["Abs", "Relu"] * 3
    assert model.work == 6 * 2 * 3 * 64 * 64 * 4
    assert inspect_input(tmp_path / "model.onnx").dims == (1, 3, 64, 64)


def test_the_compute_bound_model_travels_light_and_does_every_operation_that_is_counted(tmp_path: Path) -> None:
    model = compute_bound(Sizes(channels=32, side=14, layers=3))
    (tmp_path / "skeleton.onnx").write_bytes(model.model.SerializeToString())
    materialise(tmp_path / "skeleton.onnx", tmp_path / "model.onnx", batch=1, height=14, width=14)
    convolutions = [name for name in executed(tmp_path / "model.onnx", tmp_path) if name in ("Conv", "FusedConv")]
    assert len(convolutions) == 3
    weights = onnx.load(tmp_path / "model.onnx").graph.initializer
    assert model.work == 2 * 14 * 14 * sum(np.prod(tensor.dims) for tensor in weights)
    assert len(compute_bound(Sizes()).model.SerializeToString()) < 5000
    assert compute_bound(Sizes()).model == compute_bound(Sizes()).model


@pytest.mark.parametrize(
    ("memory_gib", "tensor_mib"), [(None, 16), (0.5, 16), (1, 16), (1.9, 64), (8, 64), (15.8, 64), (16, 192), (64, 192)]
)
def test_the_tensor_suits_the_memory(memory_gib: float | None, tensor_mib: int) -> None:
    memory_bytes = None if memory_gib is None else int(memory_gib * GIB)
    assert tensor_bytes_for(memory_bytes) == tensor_mib << 20
    model = memory_bound(Sizes(), tensor_bytes_for(memory_bytes))
    assert 0.99 < model.work / (16 * (tensor_mib << 20)) <= 1
