"""The backends of this agent."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from backbench.agent.backends.base import Backend
from backbench.agent.backends.onnxruntime import OnnxRuntimeCpu
from backbench.agent.backends.onnxruntime_gpu import OnnxRuntimeCuda
from backbench.agent.backends.onnxruntime_tensorrt import OnnxRuntimeTensorRt
from backbench.agent.backends.tensorrt.backend import tensorrt, tensorrt_rtx
from backbench.domain.errors import UnknownBackend

BACKENDS: dict[str, Callable[[], Backend]] = {
    "onnxruntime": OnnxRuntimeCpu,
    "onnxruntime-cuda": OnnxRuntimeCuda,
    "onnxruntime-tensorrt": OnnxRuntimeTensorRt,
    "tensorrt": tensorrt,
    "tensorrt-rtx": tensorrt_rtx,
}


def backend_names() -> tuple[str, ...]:
    """Names of the backends here and of those that other packages add (entry points `backbench.backends`)."""
    return (*BACKENDS, *(point.name for point in entry_points(group="backbench.backends")))


def backend_named(name: str) -> Backend:
    """The backend of that name. Raises UnknownBackend, listing the names."""
    if name in BACKENDS:
        return BACKENDS[name]()
    for point in entry_points(group="backbench.backends", name=name):
        backend: Backend = point.load()()
        return backend
    raise UnknownBackend(f'no backend "{name}"; this agent has {", ".join(backend_names())}')
