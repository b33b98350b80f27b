"""Memory of a GPU by two libraries. Stands on the real PyCUDA and the real cuda-bindings over the fake driver."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.agent.backends.cuda.conformance import SUITE, opened
from tests.agent.backends.cuda.driver_process import (
    compile_driver,
    compiler_lacking,
    fake,
    library_lacking,
    process_over,
)

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.cuda.memory import chosen_library, on_device, open_device_memory
from backbench.domain.run import FailureReason

Run = Callable[..., Any]


@pytest.fixture(params=["pycuda", "cuda-bindings"])
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if why := library_lacking(name):
        pytest.skip(why)
    return name


@pytest.mark.parametrize("does", SUITE, ids=lambda does: does.__name__)
def test_every_library(over_driver: Run, library: str, does: Callable[[str], None]) -> None:
    over_driver(does, library)


@pytest.fixture
def bindings(over_driver: Run) -> Run:
    if why := library_lacking("cuda-bindings"):
        pytest.skip(why)
    return over_driver


def _replays_a_graph() -> None:
    before = fake().fakecuda_live()
    with opened("cuda-bindings", **{"cuda-graph": "yes"}) as memory:
        image, out = memory.pinned((4,), "float32"), memory.pinned((4,), "float32")
        address = memory.alloc(16)

        def work() -> None:
            memory.copy_in(address, image)
            memory.copy_out(out, address)

        launch = memory.capture(work)
        memory.synchronise()
        assert not out.any(), "capturing is not doing"
        for value in (3.0, 4.0):
            image[...] = value
            launch()
            assert not np.all(out == value)
            memory.synchronise()
            assert np.all(out == value)
    assert fake().fakecuda_live() == before


def test_a_captured_graph_does_it_all_again_with_what_the_buffers_hold_then(bindings: Run) -> None:
    bindings(_replays_a_graph)


def _fails_while_capturing() -> None:
    before = fake().fakecuda_live()
    with opened("cuda-bindings") as memory:
        with pytest.raises(WorkerFailure):
            memory.capture(memory.synchronise)
        with pytest.raises(ZeroDivisionError):
            memory.capture(lambda: 1 // 0)  # type: ignore[arg-type]
        out, address = memory.pinned((4,), "float32"), memory.alloc(16)
        memory.copy_out(out, address)
        memory.synchronise()
    assert fake().fakecuda_live() == before


def test_work_that_fails_while_it_is_captured_leaves_the_stream_usable(bindings: Run) -> None:
    bindings(_fails_while_capturing)


def _refuses_graphs() -> None:
    with opened("pycuda") as memory, pytest.raises(WorkerFailure, match=r"no CUDA graphs; pip install .*cuda-python"):
        memory.capture(lambda: None)


def test_pycuda_refuses_to_capture_in_words(over_driver: Run) -> None:
    if why := library_lacking("pycuda"):
        pytest.skip(why)
    over_driver(_refuses_graphs)


def _finds_pycuda_too_new() -> str:
    memory = open_device_memory({})
    try:
        return memory.facts["cuda_library_why"]
    finally:
        memory.close()


def test_a_pycuda_that_the_driver_is_too_old_for_gives_way_and_that_is_recorded(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for why in (compiler_lacking(), library_lacking("pycuda"), library_lacking("cuda-bindings")):
        if why:
            pytest.skip(why)
    folder = tmp_path_factory.mktemp("older")
    compile_driver(folder, whole=False)
    with process_over(folder) as run:
        assert "PyCUDA cannot be loaded: " in run(_finds_pycuda_too_new)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes only those modules importable."""

    def only(*names: str) -> None:
        def found(module: str) -> object:
            if module not in names:
                raise ModuleNotFoundError(module)
            return object()

        monkeypatch.setattr(importlib, "import_module", found)

    return only


def test_pycuda_is_the_first_choice_and_cuda_bindings_the_second(installed: Callable[..., None]) -> None:
    installed("pycuda.driver", "cuda.bindings.driver")
    assert chosen_library({}) == ("pycuda", "")
    assert chosen_library({"cuda-library": "cuda-bindings"}) == ("cuda-bindings", "")
    assert chosen_library({"cuda-graph": "yes"}) == ("cuda-bindings", "PyCUDA makes no CUDA graphs")
    installed("cuda.bindings.driver")
    assert chosen_library({"cuda-graph": "no"}) == ("cuda-bindings", "PyCUDA is not installed")


@pytest.mark.parametrize(
    ("modules", "options", "words"),
    [
        ((), {}, "PyCUDA is not installed, and cuda-bindings is not installed; pip install 'backbench"),
        (("pycuda.driver",), {"cuda-library": "cuda-bindings"}, "cuda-bindings is not installed; pip install"),
        (("cuda.bindings.driver",), {"cuda-library": "pycuda"}, "PyCUDA is not installed; pip install"),
        (("pycuda.driver",), {"cuda-graph": "yes"}, "PyCUDA makes no CUDA graphs, and cuda-bindings is not installed"),
        (
            ("pycuda.driver", "cuda.bindings.driver"),
            {"cuda-library": "pycuda", "cuda-graph": "yes"},
            "PyCUDA makes no CUDA graphs; leave the option cuda-library out",
        ),
    ],
)
def test_a_choice_that_cannot_be_had_is_refused_with_the_remedy(
    installed: Callable[..., None], modules: tuple[str, ...], options: dict[str, str], words: str
) -> None:
    installed(*modules)
    with pytest.raises(WorkerFailure) as refused:
        chosen_library(options)
    assert refused.value.reason is FailureReason.BACKEND_UNAVAILABLE
    assert str(refused.value).startswith(words)


def _is_current_for_a_block() -> None:
    current, before = ctypes.c_void_p(), fake().fakecuda_live()
    with on_device(0):
        fake().cuCtxGetCurrent(ctypes.byref(current))
        assert current.value
        assert fake().fakecuda_live() > before
    fake().cuCtxGetCurrent(ctypes.byref(current))
    assert not current.value
    assert fake().fakecuda_live() == before
    with pytest.raises(WorkerFailure) as refused, on_device(7):
        pass
    assert "opening GPU 7 failed" in str(refused.value)


def test_a_gpu_is_current_for_as_long_as_a_block_lasts(over_driver: Run) -> None:
    over_driver(_is_current_for_a_block)
