"""What of a GPU's memory is used. Stands on the fake driver, a double of NVML's module, and a list of NvMap's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.agent.backends.cuda.driver_process import environment, fake
from tests.fakes.fake_nvml import FakeNvml, NVMLError, NVMLError_LibraryNotFound
from tests.fakes.trees import Files

from backbench.agent.backends.cuda.usage import MemoryUsage, process_figures, used_delta

Run = Callable[..., Any]
_CLIENTS = "sys/kernel/debug/nvmap/iovmm/clients"
_PLACE = "0000:01:00.0"


class _Nvml(FakeNvml):
    """One card, at a place on the bus, and who computes on it."""

    def __init__(self, *processes: tuple[int, int | None], refusal: Exception | None = None) -> None:
        listed = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in processes]
        super().__init__([{"ComputeRunningProcesses": listed}], refusal)

    def nvmlDeviceGetHandleByPciBusId(self, place: str) -> dict[str, Any]:  # noqa: N802
        if place != _PLACE:
            raise NVMLError("Not Found")
        return self.cards[0]


def _figures(nvml: Any, files: dict[str, bytes] | None = None, place: str = _PLACE) -> dict[str, int]:
    return process_figures(place, Files(files or {}), nvml)


def test_nvml_tells_what_this_process_holds_of_that_gpu() -> None:
    nvml = _Nvml((os.getpid(), 300 << 20), (1, 5), (os.getpid(), 1 << 20))
    assert _figures(nvml) == {"nvml.process": 301 << 20}
    assert nvml.opened == 0


def test_what_nvml_cannot_tell_is_left_out_and_never_zero() -> None:
    mine = os.getpid()
    assert _figures(_Nvml((1, 5))) == {}
    assert _figures(_Nvml((mine, None))) == {}
    assert _figures(_Nvml((mine, 5)), place="0000:99:00.0") == {}
    assert _figures(_Nvml(refusal=NVMLError_LibraryNotFound())) == {}
    assert _figures(FakeNvml([])) == {}


def test_nvmap_tells_what_this_process_holds_on_a_jetson() -> None:
    line = "user   {}   {} {}K\n"
    listed = "CLIENT PROCESS PID SIZE\n" + line.format("python3", os.getpid(), 2048) + line.format("Xorg", 1, 7)
    assert _figures(_Nvml(), {_CLIENTS: listed.encode()}) == {"nvmap.process": 2048 * 1024}
    assert _figures(_Nvml(), {_CLIENTS: b"CLIENT PROCESS PID SIZE\n"}) == {}


def test_what_another_process_gave_back_meanwhile_hides_what_this_one_took() -> None:
    assert used_delta(100, 40) == {"cuda.used_delta": 60}
    assert used_delta(100, 140) == {}


def _uses() -> tuple[int, dict[str, int], dict[str, int], int]:
    """A library that takes memory of the same context as the usage looks at."""
    driver, address = fake(), ctypes.c_ulonglong()
    before = driver.fakecuda_live()
    usage = MemoryUsage(0)
    first = dict(usage.figures())
    context = ctypes.c_void_p()
    assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert driver.cuCtxPushCurrent_v2(context) == 0
    assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(4096)) == 0
    second = dict(usage.figures())
    assert driver.cuMemFree_v2(address) == 0
    assert driver.cuCtxPopCurrent_v2(None) == 0
    assert driver.cuDevicePrimaryCtxRelease_v2(0) == 0
    usage.close()
    usage.close()
    assert dict(usage.figures()).get("cuda.used_delta") is None
    return before, first, second, driver.fakecuda_live()


def test_what_a_library_took_since_is_counted_and_the_context_given_back(over_driver: Run) -> None:
    before, first, second, after = over_driver(_uses)
    assert first["cuda.used_delta"] == 0
    assert second["cuda.used_delta"] == 4096
    assert after == before


def _uses_nothing() -> dict[str, int]:
    with environment(FAKECUDA_INIT="100"):
        usage = MemoryUsage(0)
    figures = dict(usage.figures())
    usage.close()
    return figures


def test_without_a_gpu_there_are_no_figures(over_driver: Run) -> None:
    assert over_driver(_uses_nothing) == {}
    assert MemoryUsage(0, "libcuda-that-nobody-has.so.1").figures() == {}
