"""The backends of this agent."""

from __future__ import annotations

from collections.abc import Callable

from backbench.agent.backends.base import Backend
from backbench.agent.backends.onnxruntime import OnnxRuntimeCpu
from backbench.domain.errors import UnknownBackend


def _onnxruntime_cuda() -> Backend:
    from backbench.agent.backends.onnxruntime_gpu import OnnxRuntimeCuda

    return OnnxRuntimeCuda()


def _onnxruntime_tensorrt() -> Backend:
    from backbench.agent.backends.onnxruntime_tensorrt import OnnxRuntimeTensorRt

    return OnnxRuntimeTensorRt()


def _tensorrt() -> Backend:
    from backbench.agent.backends.tensorrt.backend import tensorrt

    return tensorrt()


def _tensorrt_rtx() -> Backend:
    from backbench.agent.backends.tensorrt.backend import tensorrt_rtx

    return tensorrt_rtx()


# Those of GPUs are imported when they are made: every worker reads this table, and that is part of its start.
BACKENDS: dict[str, Callable[[], Backend]] = {
    "onnxruntime": OnnxRuntimeCpu,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "onnxruntime-tensorrt": _onnxruntime_tensorrt,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
}
LIBRARIES = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-cuda": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}
"""The module that each stands on; one that is not named is asked in a process of its own."""


def backend_names() -> tuple[str, ...]:
    """Names of the backends here and of those that other packages add (entry points `backbench.backends`)."""
    from importlib.metadata import entry_points

    return (*BACKENDS, *(point.name for point in entry_points(group="backbench.backends")))


def backend_named(name: str) -> Backend:
    """The backend of that name. Raises UnknownBackend, listing the names."""
    if name in BACKENDS:
        return BACKENDS[name]()
    from importlib.metadata import entry_points  # 10 ms, of which most workers need nothing

    for point in entry_points(group="backbench.backends", name=name):
        backend: Backend = point.load()()
        return backend
    raise UnknownBackend(f'no backend "{name}"; this agent has {", ".join(backend_names())}')
