"""Whether CUDA can be used here, by the driver's own library alone: `python -m backbench.agent.backends.cuda.probe`.

Asked before a library over it is touched: some of those end the process where there is no usable driver.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass

from backbench.agent.backends.cuda.driver import LIBRARY, CudaError, Driver

_STUB, _TOO_OLD, _NO_DEVICE = 34, 35, 100
_NO_GPU = "the NVIDIA driver finds no GPU; look at nvidia-smi, and at CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Cuda:
    """A GPU, or in `reason` why there is none to be used. `driver_version` is the newest CUDA of the driver: "12.6"."""

    available: bool
    reason: str = ""
    name: str = ""
    compute_capability: tuple[int, int] | None = None
    driver_version: str = ""


def probe_cuda(device: int = 0, library: str = LIBRARY) -> Cuda:
    """The GPU of that number. Never raises."""
    try:
        driver = Driver(library)
    except OSError as error:
        return Cuda(available=False, reason=_no_library(str(error), library))
    version = _version(driver)
    try:
        return _found(driver, device, version)
    except CudaError as error:
        return Cuda(available=False, reason=_refusal(error, version, library), driver_version=version)


def _found(driver: Driver, device: int, version: str) -> Cuda:
    driver.start()
    count = driver.device_count()
    if count == 0:
        return Cuda(available=False, reason=_NO_GPU, driver_version=version)
    if not 0 <= device < count:
        reason = f"no GPU {device} here; CUDA numbers {count} from 0 on: choose another device"
        return Cuda(available=False, reason=reason, driver_version=version)
    handle = driver.device(device)
    return Cuda(True, "", driver.device_name(handle), driver.compute_capability(handle), version)


def _version(driver: Driver) -> str:
    """What the driver says of itself even where it does not start; "" where it does not."""
    try:
        return driver.version()
    except CudaError:
        return ""


def _no_library(words: str, library: str) -> str:
    if "No such file" in words:
        return f"no NVIDIA driver here: {library} is not installed"
    return f"the NVIDIA driver cannot be loaded: {' '.join(words.split())}"


def _refusal(error: CudaError, version: str, library: str) -> str:
    if error.code == _STUB:
        return f"{library} is the CUDA toolkit's stub and no driver; take its folder out of LD_LIBRARY_PATH"
    if error.code == _TOO_OLD:
        supports = f"for CUDA {version} at most" if version else "of a version that it does not tell"
        return f"the NVIDIA driver is {supports}, too old for the kernel or the library over it; update the driver"
    if error.code == _NO_DEVICE:
        return _NO_GPU
    return f"the NVIDIA driver refuses ({error}); look at nvidia-smi and at dmesg"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dataclasses.asdict(probe_cuda())) + "\n")
