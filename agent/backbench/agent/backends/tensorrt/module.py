"""Which TensorRT there is: its module, its version, and what it can, told by its attributes and not by its number."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.tensorrt.logger import LogLines
from backbench.domain.run import FailureReason

_SOURCES = {
    "tensorrt": (
        "on a Jetson: apt install python3-libnvinfer, and make the agent's environment with --system-site-packages;"
        " elsewhere: pip install tensorrt"
    ),
    "tensorrt_rtx": "pip install 'backbench[rtx]'",
}

OF_NO_USE = "use a driver that is new enough for this version, or an older version"
"""The remedy where the library does not come up on the driver."""


@dataclass(frozen=True, slots=True)
class Library:
    """An imported TensorRT. `label` is how people call it."""

    module: Any
    label: str
    is_rtx: bool

    @property
    def version(self) -> str:
        """With its build, as plans depend on both: "10.3.0", "11.4.0.106"."""
        return str(self.module.__version__)

    @property
    def explicit_batch_flag(self) -> int:
        """Networks are made with it where it exists (needed until 9, ignored by 10, gone in 11); 0 where not."""
        return _bit(self.module.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")

    @property
    def strongly_typed_flag(self) -> int:
        """A network with it computes in the types that the model states; 0 before 9."""
        return _bit(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def has_progress(self) -> bool:
        """Whether a build can be watched and stopped: from 9 on."""
        return hasattr(self.module, "IProgressMonitor")

    @property
    def has_timing_cache(self) -> bool:
        """Whether timings of one build serve the next; of TensorRT for RTX the calls do nothing."""
        return not self.is_rtx

    def builder_flag(self, name: str) -> Any | None:
        """A flag of the builder; None where this version has no such flag."""
        return getattr(self.module.BuilderFlag, name, None)


def import_library(module_name: str) -> Library:
    """Import `tensorrt` or `tensorrt_rtx`. Raises WorkerFailure with what brings it."""
    label = "TensorRT for RTX" if module_name == "tensorrt_rtx" else "TensorRT"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise _broken(module_name, error) from error
        raise WorkerFailure(
            FailureReason.BACKEND_UNAVAILABLE, f"{module_name} is not installed; {_SOURCES[module_name]}"
        ) from error
    except (ImportError, OSError) as error:
        raise _broken(module_name, error) from error
    return Library(module, label, is_rtx=module_name == "tensorrt_rtx")


def make_runtime(library: Library, logger: Any, lines: LogLines) -> Any:
    """A runtime. Raises WorkerFailure where CUDA is there, but not what this version wants of it."""
    try:
        return library.module.Runtime(logger)
    except TypeError as error:  # "factory function returned nullptr"
        raise lines.failure(
            f"{library.label} {library.version} makes no runtime", FailureReason.BACKEND_UNAVAILABLE, OF_NO_USE
        ) from error


def _broken(module_name: str, error: Exception) -> WorkerFailure:
    words = " ".join(str(error).split())[:200]
    return WorkerFailure(
        FailureReason.BACKEND_UNAVAILABLE,
        f"{module_name} does not import: {words}; install all of one version of it ({_SOURCES[module_name]})",
    )


def _bit(flags: Any, name: str) -> int:
    flag = getattr(flags, name, None)
    return 0 if flag is None else 1 << int(flag)
