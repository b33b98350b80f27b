"""A backend that needs nothing but numpy, and does everything that a backend may: it builds engines, tells the times of
layers, knows of memory of its own, and looks at what executed. It runs no model: its output is the mean of the input.

It stands for no vendor's library. A real agent finds it by the entry point that `install` writes. Its options steer it:
`behave` is "" or one of "refuse" (build), "crash" (build), "hang" (build), "empty" (build), "deaf" (build: hangs and
ignores SIGTERM), "elsewhere" (verify), "layerless" (layers).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.domain.device import Backend as BackendDescription
from backbench.domain.event import Layer
from backbench.domain.run import FailureReason

NAME = "built"
VERSION = "1.0"
STEPS = 5


def install(folder: Path) -> None:
    """Make this module an installed package of whoever has the folder on its PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "built_backend.py").write_bytes(Path(__file__).read_bytes())
    information = folder / "built_backend-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: built-backend\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[backbench.backends]\n{NAME} = built_backend:Built\n")


class Built:
    """See the module."""

    name = NAME

    def describe(self) -> BackendDescription:
        return BackendDescription(
            self.name,
            available=True,
            version=VERSION,
            providers=("numpy",),
            precisions=("as-model", "fp32"),
            options=("behave", "salt"),
            engine_precisions=("fp16",),
        )

    def load(self) -> None:
        pass

    def engine_key(self, request: OpenRequest) -> Mapping[str, str]:
        return {
            "library": f"numpy {np.__version__}",
            "precision": request.precision or "as-model",
            "shape": "x".join(map(str, request.input_shape)),
            "salt": request.options.get("salt", ""),
        }

    def build(
        self, request: OpenRequest, path: Path, progress: Callable[[str, int, int | None], None]
    ) -> Mapping[str, int]:
        print("what a library has to say")  # noqa: T201 - it must not mix with what the process says
        for step in range(STEPS):
            progress("numbers", step, STEPS)
        path.write_bytes(b"half of ")
        _behave(request.options.get("behave", ""), path)
        if path.exists():
            path.write_bytes(b"half of an engine, and the other half")
        (Path(request.cache_folder) / "numbers.cache").write_text("faster")
        progress("numbers", STEPS, STEPS)
        return {"layer_count": 2}

    def open(self, request: OpenRequest) -> BuiltEngine:
        return BuiltEngine(request)


class BuiltEngine:
    """Reads its engine's file; `layers` are told only where it was opened for that."""

    def __init__(self, request: OpenRequest) -> None:
        self._file = Path(request.engine_path).read_bytes()
        self._request = request
        self._slots: list[Any] = []
        self._output = np.zeros(1, np.float32)
        self._inferences = 0

    @property
    def facts(self) -> Mapping[str, str]:
        return {
            "backend": NAME,
            "backend_version": VERSION,
            "providers": "numpy",
            "threads": str(self._request.threads),
            "precision": self._request.precision or "as-model",
            "input": f"float32 {'x'.join(map(str, self._request.input_shape))}",
            "synchronisation": "the call returns with the output",
        }

    @property
    def output_names(self) -> Sequence[str]:
        return ["mean"]

    def bind(self, slots: Sequence[Any]) -> None:
        self._slots = list(slots)

    def infer(self, slot: int) -> None:
        self._inferences += 1
        self._output[0] = self._slots[slot].mean()

    def outputs(self) -> Sequence[Any]:
        return [self._output]

    def layers(self) -> Sequence[Layer]:
        assert self._request.profiled
        if self._request.options.get("behave") == "layerless":
            raise WorkerFailure(FailureReason.BACKEND_UNAVAILABLE, "it counts no layers")
        calls = self._inferences - 1
        return [Layer("sum", "ReduceSum", "numpy", 3000, calls), Layer("div", "Div", "numpy", 1000, calls)]

    def memory_figures(self) -> Mapping[str, int]:
        return {"engine.file": len(self._file)}

    def verify(self) -> None:
        if self._request.options.get("behave") == "elsewhere":
            raise WorkerFailure(FailureReason.BACKEND_UNAVAILABLE, "numpy did not run it; take another backend")

    def __enter__(self) -> BuiltEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _behave(how: str, path: Path) -> None:
    if how == "refuse":
        raise WorkerFailure(FailureReason.ENGINE_BUILD_FAILED, "operator Fancy (node 7) is unknown; take another model")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "empty":
        path.unlink()
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how in ("hang", "deaf"):
        time.sleep(600)
