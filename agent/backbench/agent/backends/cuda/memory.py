"""A GPU's memory, and the order of what is done there, as one small interface over two libraries.

PyCUDA is taken where it can be imported, and cuda-bindings otherwise; the fact `cuda_library` says which.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.cuda.driver import CudaError, Driver
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INSTALL = "pip install 'backbench[cuda-python]' (cuda-bindings), or 'backbench[cuda]' (PyCUDA, built on the device)"
_MODULES = {"pycuda": "pycuda.driver", "cuda-bindings": "cuda.bindings.driver"}


class DeviceMemory(Protocol):
    """The memory of one GPU and one stream on it, in the process's primary context: the one that TensorRT uses.

    Of one thread: the one that opened it. Copies and events are queued on the stream and have happened when
    `synchronise` returns. Whatever CUDA refuses is a WorkerFailure; for want of memory, one that says how much.
    """

    @property
    def facts(self) -> Mapping[str, str]:
        """What a latency depends on: which library, and how the host waits."""

    @property
    def stream(self) -> int:
        """The handle of the stream, which is not the default one."""

    def alloc(self, size_bytes: int) -> int:
        """Room on the GPU, until `close`: its address."""

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """An array of zeros in host memory that the GPU can copy from and to by itself; gone after `close`."""

    def pin(self, array: NDArray[Any]) -> bool:
        """Pin an array where it lies, until `close`; False where the driver does not."""

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of the whole array to the GPU. The array is contiguous, and pinned: else the call may wait."""

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy from the GPU that fills the array."""

    def event(self) -> Any:
        """A point in time to be recorded again and again; made once, kept until `close`."""

    def record(self, event: Any) -> None:
        """Queue the event: it happens when all that was queued before it has."""

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Between two events that have happened, of the same frame; -1 where it is not known. Does not raise."""

    def synchronise(self) -> None:
        """Wait, as the facts say, until everything queued has happened."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of what `work` queues, without doing it: what is returned queues it all in one call."""

    def mem_info(self) -> tuple[int, int]:
        """Bytes free and bytes in all, of the whole GPU."""

    def usage(self, free_before: int) -> Mapping[str, int]:
        """What is used by now, in bytes by the name of what each figure is; see `usage.py`. Does not raise."""

    def close(self) -> None:
        """Wait for what is queued and free everything; twice is fine."""


def open_device_memory(options: Mapping[str, str]) -> DeviceMemory:
    """The memory of the GPU that `device` says, by the library that `cuda-library` says, waiting as `sync` says.

    Raises WorkerFailure where there is no such library, or no such GPU.
    """
    name, why = chosen_library(options)
    device, spin = int(options.get("device", "0")), options.get("sync", "spin") == "spin"
    if name == "pycuda":
        from backbench.agent.backends.cuda.pycuda import PyCudaMemory

        return PyCudaMemory(device, spin=spin, why=why)
    from backbench.agent.backends.cuda.bindings import BindingsMemory

    return BindingsMemory(device, spin=spin, why=why)


def chosen_library(options: Mapping[str, str]) -> tuple[str, str]:
    """The library's name, and why it is that one where it is not the first choice. Raises WorkerFailure for none."""
    asked, with_graphs = options.get("cuda-library", ""), options.get("cuda-graph") == "yes"
    if asked == "pycuda" and with_graphs:
        raise _unavailable("PyCUDA makes no CUDA graphs; leave the option cuda-library out, or --cuda-graph")
    if asked:
        if reason := _lacking(asked):
            raise _unavailable(f"{reason}; {_INSTALL}")
        return asked, ""
    first = "PyCUDA makes no CUDA graphs" if with_graphs else _lacking("pycuda")
    if not first:
        return "pycuda", ""
    if second := _lacking("cuda-bindings"):
        raise _unavailable(f"{first}, and {second}; {_INSTALL}")
    return "cuda-bindings", first


def library_facts(label: str, why: str, waits: str) -> Mapping[str, str]:
    """What `facts` says: `cuda_library_why` only where it is not the first choice, or not the user's."""
    facts = {"cuda_library": label, "synchronisation": waits}
    return {**facts, "cuda_library_why": why} if why else facts


def start_driver(device: int, *, spin: bool) -> tuple[Driver, str, str]:
    """Start the driver and choose how the host waits: it, how it waits in words, and the GPU's place on the bus."""
    try:
        driver = Driver()
        driver.start()
        handle = driver.device(device)
        chosen = driver.set_waiting(handle, spin=spin)
        bus_id = driver.pci_bus_id(handle)
    except (OSError, CudaError) as error:
        raise refused(f"opening GPU {device}", " ".join(str(error).split())) from error
    waits = "spins on the stream" if spin else "blocks on the stream"
    return driver, waits if chosen else f"as the process's CUDA context already did, not: {waits}", bus_id


@contextlib.contextmanager
def on_device(device: int) -> Iterator[None]:
    """Make a GPU's primary context this thread's while the block lasts. Raises WorkerFailure."""
    try:
        driver = Driver()
        driver.start()
        handle = driver.device(device)
        context = driver.retain_context(handle)
    except (OSError, CudaError) as error:
        raise refused(f"opening GPU {device}", " ".join(str(error).split())) from error
    try:
        with driver.current(context):
            yield
    finally:
        driver.release_context(handle)


def no_memory(what: str, size_bytes: int, mem_info: Callable[[], tuple[int, int]]) -> WorkerFailure:
    """The failure of a request for memory, with what there is. `what` is "GPU memory" or the like."""
    try:
        free, total = mem_info()
        there = f"{_amount(free)} of {_amount(total)} are free on the GPU"
    except WorkerFailure:
        there = "how much is free is not known"
    return WorkerFailure(
        FailureReason.OUT_OF_MEMORY,
        f"no {_amount(size_bytes)} of {what}: {there}; choose a smaller batch or --size, or stop what else uses it",
    )


def refused(what: str, why: str) -> WorkerFailure:
    """The failure of anything else: what was to be done, and CUDA's name of the error."""
    if "OUT_OF_MEMORY" in why:
        return WorkerFailure(
            FailureReason.OUT_OF_MEMORY, f"{what} failed ({why}): the GPU's memory is full; stop what else uses it"
        )
    return _unavailable(f"{what} failed: {why}; run it again, and look at dmesg if it stays")


def _lacking(name: str) -> str:
    """Why a library cannot be used, in words; "" where it can. Its import may fail for a driver that is too old."""
    label = {"pycuda": "PyCUDA"}.get(name, name)
    try:
        importlib.import_module(_MODULES[name])
    except ModuleNotFoundError:
        return f"{label} is not installed"
    except (ImportError, OSError, RuntimeError) as error:
        return f"{label} cannot be loaded: {' '.join(str(error).split())[:200]}"
    return ""


def _amount(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 100_000 else f"{size_bytes:,} bytes"


def _unavailable(message: str) -> WorkerFailure:
    return WorkerFailure(FailureReason.BACKEND_UNAVAILABLE, message)
