"""NVIDIA GPUs by the driver's own library: desktop and server cards, and on Thor what the kernel does not show.

NVML does not survive a fork, so it is opened by the process that reads it. Every function may be missing on a board or
refuse a card: what does not answer at the first try is not there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

SW_POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE = 0x4, 0x8, 0x20, 0x40, 0x80
"""Bits of the reasons why a clock is lower than asked for; the others (idle, a user's limit, ...) are no throttling."""
_REASONS = {
    "power": SW_POWER_CAP | HW_POWER_BRAKE,
    "thermal": SW_THERMAL | HW_THERMAL,
    "frequency": HW_SLOWDOWN,
}
_SOURCE = "nvml"
_KERNEL_GPUS = ("sys/class/devfreq/*.gpu", "sys/class/devfreq/*.gv11b", "sys/class/devfreq/*.ga10b",
                "sys/class/devfreq/gpu-gpc-0")  # fmt: skip
_KERNEL_LOADS = tuple(f"{pattern}/device/load" for pattern in _KERNEL_GPUS)
_UTIL_WINDOW_NS = 10**9
_STUB = "(nvgpu)"
"""At the end of the name that NVML gives a Jetson's GPU of which it knows nothing."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One channel and how it is asked for."""

    channel: SensorChannel
    ask: Callable[[], float]


class Nvml:
    """Every card; the first one is `gpu`, the others `gpu1`, `gpu2`, ..."""

    name = "nvml"
    rate_hz = 5.0

    def __init__(self, tree: Tree, module: Any = None) -> None:
        self._tree = tree
        self._module = module
        self._open = False
        self._readings: list[_Reading] = []
        self._words: list[tuple[str, Callable[[], int]]] = []

    def probe(self) -> Coverage:
        """Opens the library; a recorded board has none."""
        if self._module is None and self._tree.simulated:
            return Coverage.absent("a recorded board has no driver library")
        try:
            self._module = self._module or importlib.import_module("pynvml")
        except ImportError:
            return Coverage.absent("nvidia-ml-py is not installed; pip install 'backbench[nvml]'")
        try:
            self._module.nvmlInit()
            self._open = True
            cards = [self._module.nvmlDeviceGetHandleByIndex(place) for place in range(self._count())]
        except self._module.NVMLError as error:
            return _refusal(str(error))
        known = [card for card in cards if not self._name(card).endswith(_STUB)]
        if not known:
            return Coverage.absent("NVML tells nothing of this Jetson's GPU" if cards else "NVML knows no card here")
        for place, card in enumerate(known):
            self._take(card, place)
        return Coverage((*(reading.channel for reading in self._readings), *self._flags()))

    def read(self) -> Mapping[str, Value]:
        """Everything that answered at the probe."""
        values = {reading.channel.name: self._asked(reading.ask) for reading in self._readings}
        for suffix, ask in self._words:
            word = self._asked(ask)
            values[f"throttle.raw.{suffix}"] = word
            for reason, mask in _REASONS.items():
                flag = word if isinstance(word, Unread) else int(bool(word & mask))
                values[f"throttle.{reason}.{suffix}"] = flag
        return values

    def close(self) -> None:
        """Close the library."""
        if self._open:
            self._open = False
            try:
                self._module.nvmlShutdown()
            except self._module.NVMLError:
                return

    def _count(self) -> int:
        return int(self._module.nvmlDeviceGetCount())

    def _name(self, card: Any) -> str:
        try:
            name = self._module.nvmlDeviceGetName(card)
        except self._module.NVMLError:
            return ""
        return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)

    def _take(self, card: Any, place: int) -> None:
        """Every channel of one card that answers now."""
        nvml, gpu = self._module, "gpu" if place == 0 else f"gpu{place}"
        by_kernel = place == 0 and self._found(_KERNEL_GPUS)
        scope = self._name(card) or "gpu"

        def channel(name: str, unit: str, **more: Any) -> SensorChannel:
            return SensorChannel(name, unit, _SOURCE, **{"scope": scope, **more})

        offered: list[tuple[SensorChannel, Callable[[], float]]] = [
            (channel(f"power.rail.{gpu}", "mW", scope="gpu", method="measured"),
             lambda: nvml.nvmlDeviceGetPowerUsage(card)),
            (channel(f"energy.{gpu}", "uJ", scope="gpu", kind="counter"),
             lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(card) * 1000),
            (channel(f"mem.{gpu}_used", "B"), lambda: nvml.nvmlDeviceGetMemoryInfo(card).used),
            (channel(f"{gpu}.clock_max", "Hz"),
             lambda: nvml.nvmlDeviceGetMaxClockInfo(card, nvml.NVML_CLOCK_SM) * 1_000_000),
            (channel(f"temp.{gpu}", "mC"),
             lambda: nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU) * 1000),
            (channel(f"{gpu}.clock", "Hz"), lambda: nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM) * 1_000_000),
        ]  # fmt: skip
        if by_kernel:  # the kernel tells of this one, all but its load on a Thor
            offered = []
        if not (by_kernel and self._found(_KERNEL_LOADS)):
            util = channel(f"{gpu}.util", "permille", method="average", window_ns=_UTIL_WINDOW_NS)
            offered.append((util, lambda: nvml.nvmlDeviceGetUtilizationRates(card).gpu * 10))
        for described, ask in offered:
            if self._answers(ask):
                self._readings.append(_Reading(described, ask))
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
            nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None
        )
        if reasons is not None and self._answers(lambda: reasons(card)):
            self._words.append(("nvml" if place == 0 else f"nvml{place}", lambda: reasons(card)))

    def _found(self, patterns: tuple[str, ...]) -> bool:
        try:
            return any(self._tree.glob(pattern) for pattern in patterns)
        except OSError:
            return False

    def _flags(self) -> tuple[SensorChannel, ...]:
        return tuple(
            SensorChannel(name, unit, _SOURCE, scope="gpu", kind="state")
            for suffix, _ in self._words
            for name, unit in (
                (f"throttle.raw.{suffix}", "bits"),
                *((f"throttle.{reason}.{suffix}", "flag") for reason in _REASONS),
            )
        )

    def _asked(self, ask: Callable[[], float]) -> Value:
        try:
            return int(ask())
        except self._module.NVMLError as error:
            return Unread(_code(error))
        except (TypeError, ValueError):
            return Unread("EILSEQ")

    def _answers(self, ask: Callable[[], float]) -> bool:
        """A card may be busy just now; what it does not have it says, and an old library lacks the function."""
        try:
            value = self._asked(ask)
        except AttributeError:
            return False
        return not isinstance(value, Unread) or value.code not in ("ENOTSUP", "EILSEQ", "ENOSYS")


def _code(error: Exception) -> str:
    """The nearest errno to an error of NVML, by its class: its numbers are no errnos."""
    known = {
        "NVMLError_NotSupported": "ENOTSUP",
        "NVMLError_FunctionNotFound": "ENOSYS",
        "NVMLError_NoPermission": "EACCES",
        "NVMLError_GpuIsLost": "ENODEV",
        "NVMLError_Timeout": "ETIMEDOUT",
    }
    return known.get(type(error).__name__, "EIO")


def _refusal(words: str) -> Coverage:
    if "permission" in words.lower():
        return Coverage.denied(f"NVML: {words}; add the agent's user to group video")
    return Coverage.absent(f"NVML: {words}; it needs NVIDIA's driver")
