"""A stand-in for the module `pynvml`: the same functions, constants and errors, over cards that a test describes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """The base of NVML's errors."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801 - as NVIDIA names it
    pass


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801
    def __str__(self) -> str:
        return "NVML Shared Library Not Found"


class NVMLError_NoPermission(NVMLError):  # noqa: N801
    def __str__(self) -> str:
        return "Insufficient Permissions"


class NVMLError_GpuIsLost(NVMLError):  # noqa: N801
    pass


class FakeNvml:
    """`cards` have a value a function's name without "nvmlDeviceGet", or an exception that it raises."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    NVMLError: type[Exception] = NVMLError

    def __init__(self, cards: Sequence[dict[str, Any]], refusal: Exception | None = None) -> None:
        self.cards = cards
        self.opened = 0
        self._refusal = refusal

    def nvmlInit(self) -> None:  # noqa: N802
        if self._refusal is not None:
            raise self._refusal
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, place: int) -> dict[str, Any]:  # noqa: N802
        return self.cards[place]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)
        function = name.removeprefix("nvmlDeviceGet")
        if not any(function in card for card in self.cards):
            raise AttributeError(name)  # a library that is older than the function

        def ask(card: dict[str, Any], *_: Any) -> Any:
            value = card.get(function, NVMLError_NotSupported())
            if isinstance(value, Exception):
                raise value
            return value

        return ask


def desktop_card(**changes: Any) -> dict[str, Any]:
    """A card under load, of which everything is known."""
    return {
        "Name": "NVIDIA GeForce RTX 4090",
        "PowerUsage": 312_456,
        "TotalEnergyConsumption": 9_876_543,
        "Temperature": 67,
        "UtilizationRates": SimpleNamespace(gpu=98, memory=41),
        "MemoryInfo": SimpleNamespace(total=24 << 30, used=3 << 30, free=21 << 30),
        "ClockInfo": 2520,
        "MaxClockInfo": 3105,
        "CurrentClocksEventReasons": 0x4,
        **changes,
    }
