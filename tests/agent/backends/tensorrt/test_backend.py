"""The two backends as the agent uses them. Stands on the double of `tensorrt`, the host's memory, and a told GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.agent.backends.tensorrt import small_models
from tests.fakes.fake_tensorrt import VERSIONS, module_of
from tests.fakes.fake_tensorrt_types import Faults
from tests.fakes.host_memory import HostMemory

from backbench.agent.backends.base import Buildable, OpenRequest, WorkerFailure
from backbench.agent.backends.cuda.probe import Cuda
from backbench.agent.backends.tensorrt.backend import TensorRt, tensorrt, tensorrt_rtx
from backbench.agent.backends.tensorrt.module import Library
from backbench.domain.run import FailureReason

_ORIN = Cuda(available=True, name="Orin", compute_capability=(8, 7), driver_version="12.6")
_NONE = Cuda(available=False, reason="no NVIDIA driver here: libcuda.so.1 is not installed")


def _backend(version: str = "10.3.0", gpu: Cuda = _ORIN, **of_module: Any) -> TensorRt:
    memory: Any = HostMemory()
    module = module_of(version, memory.enqueue, memory.drain, **of_module)
    is_rtx = version == VERSIONS[-1]
    return TensorRt(
        "tensorrt-rtx" if is_rtx else "tensorrt",
        "tensorrt_rtx" if is_rtx else "tensorrt",
        probe=lambda _: gpu,
        memory=lambda _: memory,
        library=lambda _: Library(module, "TensorRT", is_rtx),
    )


def _request(folder: Path, **asked: Any) -> OpenRequest:
    return OpenRequest(
        small_models.written(folder, small_models.convolution()), small_models.SHAPE, 1, False, **asked
    )  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_is_built_and_run(tmp_path: Path, version: str) -> None:
    backend = _backend(version)
    assert isinstance(backend, Buildable)
    backend.load()
    cache = tmp_path / "timings"
    counters = backend.build(_request(tmp_path, cache_folder=str(cache)), tmp_path / "engine", lambda *_: None)
    assert counters["layer_count"] == 3
    assert [path.name for path in cache.glob("*")] == (
        [] if version == VERSIONS[-1] else [f"tensorrt-Orin-8-7-{version}.cache"]
    )
    with backend.open(_request(tmp_path, engine_path=str(tmp_path / "engine"))) as engine:
        engine.bind([np.ones(small_models.SHAPE, np.float32)])
        engine.infer(0)
        assert engine.outputs()[0].shape == (1, 8, 1, 1)
        assert engine.facts["backend"] == backend.name
        assert engine.facts["backend_version"] == version


def test_what_is_there_is_described() -> None:
    assert _backend().describe().engine_precisions == ("fp16", "bf16")
    told = _backend("11.4.0.106", dla_core_count=2).describe()
    assert (told.available, told.version, told.engine_precisions) == (True, "11.4.0.106", ())
    assert told.providers == ("TensorRT", "DLA")
    assert "dla" in told.options
    assert "dla" not in _backend().describe().options
    turing = replace(_ORIN, compute_capability=(7, 5))
    assert _backend(gpu=turing).describe().engine_precisions == ("fp16",)


def test_without_cuda_nothing_of_tensorrt_is_made() -> None:
    backend = _backend(gpu=_NONE)
    told = backend.describe()
    assert not told.available
    assert told.reason == f"TensorRT 10.3.0 is installed, but cannot run: {_NONE.reason}"
    for call in (backend.engine_key, backend.open, lambda request: backend.build(request, Path("x"), lambda *_: None)):
        with pytest.raises(WorkerFailure) as refused:
            call(OpenRequest("none.onnx", small_models.SHAPE, 1, False))
        assert refused.value.reason is FailureReason.BACKEND_UNAVAILABLE


def test_a_driver_that_is_too_old_for_tensorrt_is_told_in_its_words(tmp_path: Path) -> None:
    words = "CUDA initialization failure with error: 35"
    told = _backend(faults=Faults({"Runtime": 1}, words)).describe()
    assert not told.available
    assert told.reason.startswith(f"TensorRT 10.3.0 makes no runtime: {words}; use a driver that is new enough")
    backend = _backend(faults=Faults({"Runtime": 1}, words))
    backend.build(
        request := _request(tmp_path, engine_path=str(tmp_path / "engine")), tmp_path / "engine", lambda *_: None
    )
    with pytest.raises(WorkerFailure, match=words) as refused:
        backend.open(request)
    assert refused.value.reason is FailureReason.BACKEND_UNAVAILABLE


@pytest.mark.parametrize("made", [tensorrt, tensorrt_rtx])
def test_a_backend_that_is_absent_says_why(monkeypatch: pytest.MonkeyPatch, made: Callable[[], TensorRt]) -> None:
    backend = made()
    monkeypatch.setitem(sys.modules, backend.name.replace("-", "_"), None)
    told = backend.describe()
    assert not told.available
    assert told.name == backend.name
    assert told.reason


def test_the_key_of_an_engine_has_all_that_it_is_built_by_and_nothing_else(tmp_path: Path) -> None:
    def key(version: str = "10.3.0", gpu: Cuda = _ORIN, **asked: Any) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(_backend(version, gpu).engine_key(_request(tmp_path, **asked)).items()))

    thor = replace(_ORIN, name="Thor", compute_capability=(11, 0))
    different = [
        key(),
        key("10.13.2.6"),
        key(gpu=thor),
        key(precision="fp16"),
        key(options={"dla": "0"}),
        key(options={"dla": "0"}, allow_fallback=True),
        key(options={"workspace": "1GB"}),
        key(options={"optimization-level": "5"}),
    ]
    assert len(set(different)) == len(different)
    same = {key(options={"cuda-graph": "yes"}), key(options={"sync": "blocking"}), key(allow_fallback=True)}
    assert same == {key()}


def test_a_model_that_was_not_built_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailure, match="has no built engine of the model; run it again"):
        _backend().open(_request(tmp_path))


def test_an_option_with_a_wrong_value_is_refused_before_anything_else(tmp_path: Path) -> None:
    for backend in (_backend(), _backend(gpu=_NONE)):
        with pytest.raises(WorkerFailure, match="option dla is a number") as refused:
            backend.engine_key(_request(tmp_path, options={"dla": "both"}))
        assert refused.value.reason is FailureReason.INVALID_INPUT


def test_an_engine_that_cannot_be_opened_leaves_no_memory_held(tmp_path: Path) -> None:
    memory: Any = HostMemory()
    module = module_of("10.3.0", memory.enqueue, memory.drain)
    backend = TensorRt(
        "tensorrt", "tensorrt", lambda _: _ORIN, lambda _: memory, lambda _: Library(module, "TensorRT", False)
    )  # fmt: skip
    with pytest.raises(WorkerFailure):
        backend.open(_request(tmp_path, engine_path=str(tmp_path / "none")))
    assert memory.closed


@pytest.mark.parametrize(("version", "asked"), [(VERSIONS[-1], {}), ("10.3.0", {"cuda-graph": "yes"})])
def test_only_a_library_that_captures_no_graphs_asks_for_memory_that_does(
    tmp_path: Path, version: str, asked: dict[str, str]
) -> None:
    options: list[Mapping[str, str]] = []
    memory: Any = HostMemory()
    module = module_of(version, memory.enqueue, memory.drain)

    def opened(given: Mapping[str, str]) -> Any:
        options.append(given)
        return memory

    backend = TensorRt(
        "tensorrt",
        "tensorrt",
        lambda _: _ORIN,
        opened,
        lambda _: Library(module, "TensorRT", version == VERSIONS[-1]),
    )
    backend.build(_request(tmp_path), tmp_path / "engine", lambda *_: None)
    with backend.open(_request(tmp_path, engine_path=str(tmp_path / "engine"), options={"cuda-graph": "yes"})):
        pass
    assert options == [asked]


def test_without_a_library_for_the_gpus_memory_it_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    described = _backend().describe()
    assert not described.available
    assert "backbench[cuda-python]" in described.reason
