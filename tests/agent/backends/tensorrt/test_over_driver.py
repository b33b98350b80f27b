"""A frame's whole way over a driver. Stands on the double of `tensorrt`, the real cuda-bindings, and the fake driver.

The fake driver is compiled here; its memory is the host's, and what is not synchronised holds poison.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.agent.backends.tensorrt import small_models
from tests.fakes.fake_tensorrt import VERSIONS

_ROOT = Path(__file__).parents[4]
_FAKES = _ROOT / "tests" / "fakes"

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed: the fake driver cannot be compiled"),
    pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not installed"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    command = ["gcc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(_FAKES / "fake_libcuda.c"), "-ldl"]
    subprocess.run(command, check=True)
    return folder


def _told(driver: Path, folder: Path, version: str, options: dict[str, str], **environment: str) -> Any:
    model = small_models.written(folder, small_models.convolution())
    arguments = [version, model, str(folder), json.dumps({"cuda-library": "cuda-bindings", **options})]
    told = subprocess.run(
        [sys.executable, str(_FAKES / "tensorrt_over_driver.py"), *arguments],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), "PYTHONPATH": str(_ROOT), **environment},
        cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return json.loads(told.stdout) if told.returncode == 0 else told.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(("version", "graph"), [("10.3.0", "no"), ("11.4.0.106", "yes")])
def test_frames_are_copied_computed_and_timed_in_the_order_of_one_stream(
    driver: Path, tmp_path: Path, version: str, graph: str
) -> None:
    assert version in VERSIONS
    told = _told(driver, tmp_path, version, {"cuda-graph": graph, "sync": "blocking"}, FAKECUDA_NAME="Orin")
    assert not isinstance(told, str), told
    session = onnxruntime.InferenceSession(small_models.convolution(), providers=["CPUExecutionProvider"])
    images = [
        np.random.Generator(np.random.PCG64(seed)).standard_normal(small_models.SHAPE, np.float32) for seed in (0, 1)
    ]
    for slot, found in zip((0, 1, 0), told["outputs"], strict=True):
        np.testing.assert_allclose(np.asarray(found), session.run(None, {"image": images[slot]})[0], rtol=1e-5)
    assert all(ns >= 0 for spans in told["spans"] for ns in spans)
    assert told["described"]
    assert told["key"]["gpu"] == "Orin"
    assert told["key"]["compute_capability"] == "8.7"
    assert told["facts"]["cuda_library"].startswith("cuda-bindings")
    assert told["facts"]["synchronisation"]
    assert told["facts"]["cuda_graph"] == ("no" if graph == "no" else "compute, captured after the first inference")
    assert told["facts"]["transfers"].startswith("from and to pinned host memory")
    assert told["figures"]["cuda.used_delta"] >= 4 * 3 * 16 * 16
    assert told["after"] == told["before"]


def test_a_gpu_without_room_is_told_with_what_was_asked_for(driver: Path, tmp_path: Path) -> None:
    words = _told(driver, tmp_path, "10.3.0", {}, FAKECUDA_BYTES="1000")
    assert "WorkerFailure: " in words
    assert "are free on the GPU" in words


def test_a_driver_without_a_gpu_is_told_before_tensorrt_is_touched(driver: Path, tmp_path: Path) -> None:
    words = _told(driver, tmp_path, "10.3.0", {}, FAKECUDA_INIT="100")
    assert "WorkerFailure: TensorRT 10.3.0 is installed, but cannot run: the NVIDIA driver " in words
