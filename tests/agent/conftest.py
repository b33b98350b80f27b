"""A tiny real model and the parts that several tests of the agent need."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backbench.agent.worker.job import Job
from backbench.domain.preprocess import IMAGENET_DEFAULT

SIZE = 16


def tiny_model(size: int | str = SIZE) -> bytes:
    """One convolution and one mean: an ONNX model of a few hundred bytes."""
    weights = np.random.Generator(np.random.PCG64(0)).standard_normal((4, 3, 3, 3), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "weights"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["features"], ["output"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 4, 1, 1])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model())
    return path


@pytest.fixture
def photos() -> list[Path]:
    """The photographs that come with Backbench."""
    return sorted(Path(str(files("backbench.models") / "photos")).glob("*.jpg"))


@pytest.fixture
def make_job(model_path: Path) -> Callable[..., Job]:
    """A job on the tiny model, with some of its fields changed."""

    def make(**changes: object) -> Job:
        fields: dict[str, object] = {
            "purpose": "timed", "model_path": str(model_path), "height": SIZE, "width": SIZE, "batch": 1,
            "backend": "onnxruntime", "threads": 1, "spin": False, "image_paths": (), "image_names": (),
            "preprocess": IMAGENET_DEFAULT, "seed": 0, "synthetic_count": 2, "warmup_frame_count": 5,
            "frame_count": 300, "spawned_ns": 0, "parent_pid": 0,
        }  # fmt: skip
        return Job(**{**fields, **changes})  # type: ignore[arg-type]

    return make
