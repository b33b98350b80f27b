"""The backends `tensorrt` and `tensorrt-rtx`: what is there, building an engine, opening it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.cuda.memory import DeviceMemory, open_device_memory
from backbench.agent.backends.cuda.probe import Cuda, probe_cuda
from backbench.agent.backends.tensorrt.builder import build_plan
from backbench.agent.backends.tensorrt.engine import TensorRtEngine
from backbench.agent.backends.tensorrt.logger import LogLines, make_logger
from backbench.agent.backends.tensorrt.module import Library, import_library, make_runtime
from backbench.agent.backends.tensorrt.options import OPTION_NAMES, EngineOptions, engine_options
from backbench.agent.backends.tensorrt.plan import write_plan
from backbench.agent.backends.tensorrt.precision import engine_precisions
from backbench.domain.device import Backend as BackendDescription
from backbench.domain.run import FailureReason

_PRECISIONS = ("as-model", "fp32", "fp16", "int8")
"""What a model holds."""
_OLDEST_BF16 = (8, 0)
"""The compute capability from which GPUs compute in bfloat16."""


def _current(device: int) -> AbstractContextManager[None]:
    """TensorRT builds for the GPU that is current: by itself that is the first one."""
    if device == 0:
        return nullcontext()
    from backbench.agent.backends.cuda.memory import on_device

    return on_device(device)


def _choose_memory() -> None:
    from backbench.agent.backends.cuda.memory import chosen_library

    chosen_library({})


class TensorRt:
    """TensorRT by either of its two modules. CUDA is looked at first: TensorRT may crash where there is none."""

    def __init__(
        self,
        name: str,
        module_name: str,
        probe: Callable[[int], Cuda] = probe_cuda,
        memory: Callable[[Mapping[str, str]], DeviceMemory] = open_device_memory,
        library: Callable[[str], Library] = import_library,
    ) -> None:
        self.name = name
        self._module_name, self._probe, self._memory, self._library = module_name, probe, memory, library

    def describe(self) -> BackendDescription:
        """Looks at what is installed, then at CUDA, then at what both can; never raises."""
        try:
            library = self._library(self._module_name)
            cuda = self._device(library, 0)
            _choose_memory()
            cores = _dla_core_count(library)
        except WorkerFailure as failure:
            return BackendDescription(self.name, available=False, reason=str(failure))
        asked = engine_precisions(library)
        if cuda.compute_capability is not None and cuda.compute_capability < _OLDEST_BF16:
            asked = tuple(name for name in asked if name != "bf16")
        return BackendDescription(
            self.name,
            available=True,
            version=library.version,
            providers=("TensorRT", "DLA") if cores else ("TensorRT",),
            precisions=_PRECISIONS,
            options=tuple(name for name in OPTION_NAMES if cores or name != "dla"),
            engine_precisions=asked,
        )

    def load(self) -> None:
        """Import the library."""
        self._library(self._module_name)

    def engine_key(self, request: OpenRequest) -> Mapping[str, str]:
        """See `Buildable.engine_key`."""
        options = engine_options(request.options)
        library = self._library(self._module_name)
        cuda = self._device(library, options.device)
        return {
            "tensorrt": f"{library.label} {library.version}",
            "gpu": cuda.name,
            "compute_capability": ".".join(map(str, cuda.compute_capability or ())),
            "cuda_driver": cuda.driver_version,
            "precision": request.precision or "as-model",
            "tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE", "none"),
            "shape": "x".join(map(str, request.input_shape)),
            **_key_of(options, request),
        }

    def build(
        self, request: OpenRequest, path: Path, progress: Callable[[str, int, int | None], None]
    ) -> Mapping[str, int]:
        """See `Buildable.build`."""
        options = engine_options(request.options)
        library = self._library(self._module_name)
        cuda = self._device(library, options.device)
        with _current(options.device):
            built = build_plan(library, request, options, _timing_cache(request, library, cuda), progress)
        write_plan(path, built.plan, built.facts)
        return built.counters

    def open(self, request: OpenRequest) -> TensorRtEngine:
        """Read the built engine onto the GPU."""
        options = engine_options(request.options)
        library = self._library(self._module_name)
        self._device(library, options.device)
        if not request.engine_path:
            raise WorkerFailure(
                FailureReason.ENGINE_BUILD_FAILED, f"{self.name} has no built engine of the model; run it again"
            )
        own_graphs = hasattr(library.module, "CudaGraphStrategy")  # it captures them itself
        memory = self._memory(
            {name: value for name, value in request.options.items() if not (own_graphs and name == "cuda-graph")}
        )
        try:
            return TensorRtEngine(library, request, options, memory)
        except BaseException:
            memory.close()
            raise

    def _device(self, library: Library, device: int) -> Cuda:
        cuda = self._probe(device)
        if not cuda.available:
            raise WorkerFailure(
                FailureReason.BACKEND_UNAVAILABLE,
                f"{library.label} {library.version} is installed, but cannot run: {cuda.reason}",
            )
        return cuda


def tensorrt() -> TensorRt:
    """The backend of the module that comes with JetPack, or from NVIDIA's own packages."""
    return TensorRt("tensorrt", "tensorrt")


def tensorrt_rtx() -> TensorRt:
    """The backend of TensorRT for RTX."""
    return TensorRt("tensorrt-rtx", "tensorrt_rtx")


def _key_of(options: EngineOptions, request: OpenRequest) -> dict[str, str]:
    """The options that an engine is built by; what only opening it heeds is left out."""
    parts = {
        "dla": options.dla,
        "workspace": options.workspace_bytes,
        "optimization_level": options.optimization_level,
        "fallback": request.allow_fallback if options.dla is not None else None,
    }
    return {name: "default" if value is None else str(value) for name, value in parts.items()}


def _timing_cache(request: OpenRequest, library: Library, cuda: Cuda) -> Path | None:
    if not request.cache_folder:
        return None
    parts = (cuda.name, *map(str, cuda.compute_capability or ()), library.version)
    name = "-".join("".join(letter if letter.isalnum() or letter == "." else "_" for letter in part) for part in parts)
    return Path(request.cache_folder) / f"tensorrt-{name}.cache"


def _dla_core_count(library: Library) -> int:
    """How many DLA cores this TensorRT offers on this device; it is not told by the board alone.

    Raises WorkerFailure where TensorRT does not come up: a driver that CUDA is content with may be too old for it.
    """
    lines = LogLines()
    logger = make_logger(library.module, lines)
    return int(make_runtime(library, logger, lines).num_DLA_cores)
