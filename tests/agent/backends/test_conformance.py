"""What every backend in the table keeps to, on this machine as it is: with or without a GPU, installed or not.

The real packages that are here, nothing played. Where a backend is available, a tiny model runs on it.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backbench.agent.backends.base import Backend, Buildable, OpenRequest, Verified, WorkerFailure
from backbench.agent.backends.table import BACKENDS, backend_named
from backbench.domain.run import FailureReason

SIZE = 16
SHAPE = (1, 3, SIZE, SIZE)
REMEDIES = ("pip install", "apt install", "driver", "nvidia-smi", "libcuda", "install")
HEAVY = ("numpy", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "cuda")


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def test_it_has_the_name_of_its_line_and_the_methods_of_a_backend(backend: Backend) -> None:
    assert BACKENDS[backend.name]().name == backend.name
    for protocol in (Backend, *([Buildable] if isinstance(backend, Buildable) else [])):
        for name, wanted in vars(protocol).items():
            if name.startswith("_") or not inspect.isfunction(wanted):
                continue
            given = inspect.signature(getattr(type(backend), name))
            assert list(given.parameters) == list(inspect.signature(wanted).parameters), name


def test_it_describes_itself_and_says_what_is_missing_and_what_brings_it(backend: Backend) -> None:
    described = backend.describe()
    assert described.name == backend.name
    assert described.available != bool(described.reason)
    assert "\n" not in described.reason
    if described.available:
        assert described.version
        assert described.providers
        assert "as-model" in described.precisions
    else:
        assert any(remedy in described.reason for remedy in REMEDIES), described.reason


def test_its_options_and_precisions_are_names_that_go_into_a_table(backend: Backend) -> None:
    described = backend.describe()
    for name in (*described.options, *described.engine_precisions):
        assert name == name.strip().lower()
        assert name.isascii()
    assert set(described.engine_precisions) <= {"fp16", "bf16", "int8"}
    assert len(set(described.options)) == len(described.options)


def test_what_cannot_be_used_is_refused_in_one_line(backend: Backend, tmp_path: Path) -> None:
    """Nothing but a WorkerFailure leaves a backend, whatever is missing and however broken the model."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(WorkerFailure) as caught:
        backend.load()
        if isinstance(backend, Buildable):
            request = OpenRequest(str(broken), SHAPE, 1, spin=False)
            backend.engine_key(request)
            backend.build(request, tmp_path / "engine", lambda *_: None)
        backend.open(OpenRequest(str(broken), SHAPE, 1, spin=False))
    assert str(caught.value).strip()
    assert "\n" not in str(caught.value)
    assert caught.value.reason in FailureReason


def test_where_it_is_available_a_model_runs_on_it(backend: Backend, model_path: Path, tmp_path: Path) -> None:
    if not (described := backend.describe()).available:
        pytest.skip(f"{backend.name} is not available here: {described.reason}")
    backend.load()
    request = OpenRequest(str(model_path), SHAPE, 1, spin=False, allow_fallback=True)
    if isinstance(backend, Buildable):
        assert all(isinstance(value, str) for value in backend.engine_key(request).values())
        backend.build(request, tmp_path / "engine", lambda *_: None)
        request = OpenRequest(
            str(model_path), SHAPE, 1, spin=False, allow_fallback=True, engine_path=str(tmp_path / "engine")
        )
    slots = [np.full(SHAPE, value, np.float32) for value in (0.0, 1.0)]
    with backend.open(request) as engine:
        engine.bind(slots)
        results = []
        for slot in (0, 1, 0):
            engine.infer(slot)
            results.append([np.array(output) for output in engine.outputs()])
        assert len(results[0]) == len(engine.output_names) == 1
        assert np.array_equal(results[0][0], results[2][0])
        assert not np.array_equal(results[0][0], results[1][0])
        if isinstance(engine, Verified):
            engine.verify()
        facts = engine.facts
        assert {"backend", "backend_version", "providers", "transfers", "synchronisation", "input"} <= facts.keys()
        assert facts["backend"] == backend.name
        assert all(isinstance(value, str) and value for value in facts.values())


def test_no_module_of_a_backend_imports_a_library_before_it_is_asked_to() -> None:
    code = (
        "import json, sys\nfrom backbench.agent.backends import table\n"
        f"[make() for make in table.BACKENDS.values()]\nprint(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_the_probe_answers_with_one_document_and_nothing_else(name: str) -> None:
    command = [sys.executable, "-m", "backbench.agent.probe", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert [described["name"] for described in json.loads(done.stdout)] == [name]
