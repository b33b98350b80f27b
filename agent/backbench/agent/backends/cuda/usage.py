"""What of an accelerator's memory is used, each figure by what it is; one that cannot be told is left out."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.cuda.driver import LIBRARY, CudaError, Driver
from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.reading import content
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.trees import LiveTree
from backbench.agent.sensors.worker import GPU_CLIENTS, gpu_memory


class MemoryUsage:
    """The use of one GPU since this was made. It holds the process's CUDA context, which is older and not counted."""

    def __init__(self, device: int, library: str = LIBRARY) -> None:
        self._driver: Driver | None = None
        self._context: ctypes.c_void_p | None = None
        self._device, self._bus_id, self._free_before = device, "", 0
        with contextlib.suppress(OSError, CudaError):
            self._driver = Driver(library)
            self._driver.start()
            self._device = self._driver.device(device)
            self._bus_id = self._driver.pci_bus_id(self._device)
            self._context = self._driver.retain_context(self._device)
            self._free_before = self._free(self._driver, self._context)

    def figures(self) -> Mapping[str, int]:
        """Bytes by name; see `MemoryTold.memory_figures`."""
        found = process_figures(self._bus_id)
        if self._driver is not None and self._context is not None:
            with contextlib.suppress(CudaError):
                found |= used_delta(self._free_before, self._free(self._driver, self._context))
        return found

    def close(self) -> None:
        """Give the context back; twice is fine."""
        if self._driver is not None and self._context is not None:
            self._context = None
            with contextlib.suppress(CudaError):
                self._driver.release_context(self._device)

    @staticmethod
    def _free(driver: Driver, context: ctypes.c_void_p) -> int:
        with driver.current(context):
            return driver.mem_info()[0]


def used_delta(free_before: int, free: int) -> dict[str, int]:
    """What CUDA calls used on the whole GPU, less what it was; nothing where another process freed more meanwhile."""
    return {"cuda.used_delta": free_before - free} if free <= free_before else {}


def figures_since(free_before: int, bus_id: str, mem_info: Callable[[], tuple[int, int]]) -> dict[str, int]:
    """What a GPU's memory holds more than before, and what this process is held for. Never raises."""
    found = process_figures(bus_id)
    with contextlib.suppress(WorkerFailure):
        found |= used_delta(free_before, mem_info()[0])
    return found


def process_figures(bus_id: str, tree: Tree | None = None, nvml: Any = None) -> dict[str, int]:
    """What NVML, by the GPU's place on the bus, and on a Jetson NvMap hold this process for. Never raises."""
    found = {"nvml.process": _nvml_bytes(bus_id, nvml), "nvmap.process": _nvmap_bytes(tree or LiveTree())}
    return {name: size for name, size in found.items() if size is not None}


def _nvml_bytes(bus_id: str, module: Any) -> int | None:
    """None where NVML is not there, or lists the process not at all (in a container, on a Jetson) or without a size."""
    try:
        nvml = module or importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        card = nvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(card)
    except (nvml.NVMLError, AttributeError):
        return None
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    sizes = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return sum(sizes) if sizes and None not in sizes else None


def _nvmap_bytes(tree: Tree) -> int | None:
    """None where the kernel has no such list, or shows it to root alone, or knows the process by another number."""
    try:
        size = gpu_memory(content(tree, GPU_CLIENTS), {os.getpid()})
    finally:
        tree.close()
    return None if isinstance(size, Unread) else size
