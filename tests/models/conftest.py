"""Models for the tests of the model zoo, each made once, and a way to run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from backbench.models.catalog import skeleton_path
from backbench.models.skeleton import materialise

Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]


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
