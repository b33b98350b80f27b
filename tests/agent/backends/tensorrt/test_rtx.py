"""Building engines. Stands on the real `tensorrt-rtx` from PyPI, which parses and builds with no GPU; nothing runs."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.agent.backends.tensorrt import small_models
from tests.fakes.host_memory import HostMemory

from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.tensorrt.builder import Built, build_plan
from backbench.agent.backends.tensorrt.engine import TensorRtEngine
from backbench.agent.backends.tensorrt.module import Library, import_library
from backbench.agent.backends.tensorrt.options import engine_options
from backbench.agent.backends.tensorrt.plan import read_facts, read_plan, write_plan
from backbench.agent.backends.tensorrt.precision import engine_precisions
from backbench.domain.run import FailureReason
from backbench.models.skeleton import materialise


def _has_driver() -> bool:
    with contextlib.suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        return True
    return False


pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed (pip install 'tensorrt-rtx==1.7.*'): no real engine can be built",
)
_STOPPED = """
import os, signal, sys, threading
from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.tensorrt.builder import build_plan
from backbench.agent.backends.tensorrt.module import import_library
from backbench.agent.backends.tensorrt.options import engine_options

stages = []

def tell(stage, done, total):
    if not stages:
        os.kill(os.getpid(), signal.SIGTERM)
        [thread.join(60) for thread in threading.enumerate() if thread.name == "termination"]
    stages.append(stage)

request = OpenRequest(sys.argv[1], (1, 3, 64, 64), 1, False)
try:
    build_plan(import_library("tensorrt_rtx"), request, engine_options({}), None, tell)
except WorkerFailure as failure:
    print(failure.reason.value, failure, len(stages))
"""


@pytest.fixture(scope="module")
def library() -> Library:
    return import_library("tensorrt_rtx")


def _built(library: Library, path: str, shape: tuple[int, int, int, int] = small_models.SHAPE, **asked: Any) -> Built:
    request = OpenRequest(path, shape, 1, False, **asked)
    return build_plan(library, request, engine_options(request.options), None, lambda *_: None)


def _refusal(library: Library, path: str, shape: tuple[int, int, int, int] = small_models.SHAPE, **asked: Any) -> str:
    with pytest.raises(WorkerFailure) as refused:
        _built(library, path, shape, **asked)
    assert "\n" not in str(refused.value)
    return f"{refused.value.reason.value}: {refused.value}"


def test_an_engine_is_built_and_written(library: Library, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    request = OpenRequest(small_models.written(tmp_path, small_models.convolution()), small_models.SHAPE, 1, False)
    built = build_plan(library, request, engine_options({}), None, lambda *step: told.append(step))
    assert built.counters["layer_count"] == 3
    assert built.counters["engine_bytes"] == built.plan.nbytes > 1000
    assert built.counters["build_ns"] > 0
    assert told[0][0] == "Building engine"
    assert all(0 <= done <= (total or done) for _, done, total in told)
    write_plan(tmp_path / "engine", built.plan, built.facts)
    assert read_facts(tmp_path / "engine")["tensorrt"] == f"TensorRT for RTX {library.version}"
    with read_plan(tmp_path / "engine") as plan:
        assert plan[:] == built.plan.tobytes()


def test_sigterm_stops_a_build(tmp_path: Path) -> None:
    path = small_models.written(tmp_path, small_models.convolution((1, 3, 64, 64)))
    stopped = subprocess.run(
        [sys.executable, "-c", _STOPPED, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.startswith("engine_build_failed the build was stopped"), stopped.stdout


def test_an_open_size_is_built_for_the_runs_size(library: Library, tmp_path: Path) -> None:
    path = small_models.written(tmp_path, small_models.convolution(("n", 3, "h", "w")))
    built = _built(library, path, (2, 3, 32, 16))
    assert built.facts["profile"] == "minimum, optimum and maximum 2x3x32x16"
    assert "is open; give a --size" in _refusal(library, path, (1, 3, 0, 0))


def test_another_size_than_the_models_is_refused(library: Library, tmp_path: Path) -> None:
    path = small_models.written(tmp_path, small_models.convolution())
    words = _refusal(library, path, (1, 3, 32, 32))
    assert words.startswith("shape_mismatch: the model takes 1x3x16x16 and not 1x3x32x32")


def test_an_unknown_operator_is_named_with_its_node_and_tensorrts_words(library: Library, tmp_path: Path) -> None:
    words = _refusal(library, small_models.written(tmp_path, small_models.convolution(operator="FancyActivation")))
    assert words.startswith("invalid_model: ")
    assert "operator FancyActivation (node act): " in words
    assert "Plugin not found" in words


@pytest.mark.parametrize("data", [b"", b"\x00garbage" * 20, b"no model at all"])
def test_what_is_no_model_is_refused(library: Library, tmp_path: Path, data: bytes) -> None:
    assert _refusal(library, small_models.written(tmp_path, data)).startswith("invalid_model: ")


def test_a_second_input_is_refused(library: Library, tmp_path: Path) -> None:
    words = _refusal(library, small_models.written(tmp_path, small_models.two_inputs()))
    assert "has 2 inputs (image, other)" in words


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_only_the_model_can_state_is_refused_with_the_remedy(
    library: Library, tmp_path: Path, precision: str
) -> None:
    assert engine_precisions(library) == ()
    path = small_models.written(tmp_path, small_models.convolution())
    words = _refusal(library, path, precision=precision)
    assert words.startswith("engine_build_failed: ")
    assert f"backbench export ... --precision {precision}" in words


def test_a_model_in_fp16_is_built_as_it_is(library: Library, tmp_path: Path) -> None:
    built = _built(library, small_models.written(tmp_path, small_models.half()))
    assert built.facts["precision_policy"] == "strongly typed: the model's own types"


def test_int8_wants_a_model_that_states_its_scales(library: Library, tmp_path: Path) -> None:
    plain = small_models.written(tmp_path, small_models.convolution())
    words = _refusal(library, plain, precision="int8")
    assert words.startswith("invalid_model: int8 was asked for, but the model has no QuantizeLinear")
    with_scales = small_models.written(tmp_path, small_models.quantized())
    assert _built(library, with_scales, precision="int8").counters["engine_bytes"] > 0
    assert _built(library, with_scales).counters["engine_bytes"] > 0


def test_too_little_workspace_is_told_in_tensorrts_words(library: Library, tmp_path: Path) -> None:
    path = small_models.written(tmp_path, small_models.convolution())
    words = _refusal(library, path, options={"workspace": "1KB"})
    assert words.startswith("engine_build_failed: ")
    assert "workspace" in words


def test_dla_is_refused_where_no_core_is_offered(library: Library, tmp_path: Path) -> None:
    path = small_models.written(tmp_path, small_models.convolution())
    assert "offers no DLA cores here" in _refusal(library, path, options={"dla": "0"})


def test_an_optimization_level_reaches_the_builder(library: Library, tmp_path: Path) -> None:
    path = small_models.written(tmp_path, small_models.convolution())
    assert _built(library, path, options={"optimization-level": "1"}).facts["optimization_level"] == "1"


@pytest.mark.skipif(_has_driver(), reason="there is an NVIDIA driver: the engine would run")
def test_without_a_driver_a_built_engine_is_refused_in_the_drivers_words(library: Library, tmp_path: Path) -> None:
    built = _built(library, path := small_models.written(tmp_path, small_models.convolution()))
    write_plan(tmp_path / "engine", built.plan, built.facts)
    request = OpenRequest(path, small_models.SHAPE, 1, False, engine_path=str(tmp_path / "engine"))
    with pytest.raises(WorkerFailure) as refused:
        TensorRtEngine(library, request, engine_options({}), HostMemory())
    assert refused.value.reason is FailureReason.BACKEND_UNAVAILABLE
    assert "does not take the built engine: " in str(refused.value)
    assert "CUDA driver version is insufficient" in str(refused.value)
    assert "run it again to rebuild it" in str(refused.value)
    assert not (tmp_path / "engine" / "model.plan").exists()  # else the next run would find the same one


def test_a_model_of_the_zoo_is_built(library: Library, tmp_path: Path) -> None:
    skeleton = files("backbench.models") / "skeletons" / "mobilenetv3_large_100.onnx"
    path = tmp_path / "model.onnx"
    materialise(Path(str(skeleton)), path, batch=1, height=96, width=96)
    built = _built(library, str(path), (1, 3, 96, 96))
    assert built.counters["layer_count"] > 100
    assert built.counters["engine_bytes"] > 5_000_000
    assert json.dumps(built.facts)
