"""Readings as people write them: a channel's integer in its unit, and small bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backbench.controller.report.words import NONE

_BLOCKS = "▁▂▃▄▅▆▇█"
_SCALES: dict[str, tuple[float, int, str]] = {
    "mC": (1e3, 1, "°C"),
    "mW": (1e3, 2, "W"),
    "mV": (1e3, 3, "V"),
    "mA": (1e3, 3, "A"),
    "uJ": (1e6, 1, "J"),
    "permille": (10, 1, "%"),
    "us": (1e6, 3, "s"),
    "rpm": (1, 0, "rpm"),
}
_NAMES = {
    "mC": "°C", "Hz": "Hz", "mW": "W", "mV": "V", "mA": "A", "uJ": "J", "B": "bytes", "permille": "%", "us": "s",
    "ns": "ns", "count": "count", "flag": "yes/no", "rpm": "rpm", "bits": "bits", "id": "id",
}  # fmt: skip


def unit_name(unit: str) -> str:
    """What readings in this unit are shown in."""
    return _NAMES.get(unit, unit)


def reading(value: int | None, unit: str) -> str:
    """A value with its unit; a dash for one that could not be read.

    >>> reading(46062, "mC"), reading(1_344_000_000, "Hz"), reading(None, "mW")
    ('46.1 °C', '1.34 GHz', '—')
    """
    if value is None:
        return NONE
    if unit in _WORDS:
        return _WORDS[unit](value)
    scale, digits, name = _SCALES.get(unit, (1, 0, ""))
    return f"{value / scale:.{digits}f} {name}".rstrip()


def _frequency(value: int) -> str:
    return f"{value / 1e9:.2f} GHz" if value >= 10**9 else f"{value / 1e6:.0f} MHz"


def _size(value: int) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 10**9 else f"{value / 1e6:.1f} MB"


def duration(length_ns: int) -> str:
    """A short time: "12 us", "3.4 ms", "2.0 s"."""
    if length_ns < 10**6:
        return f"{length_ns / 1e3:.0f} us"
    return f"{length_ns / 1e6:.1f} ms" if length_ns < 10**9 else f"{length_ns / 1e9:.1f} s"


_WORDS: dict[str, Callable[[int], str]] = {
    "Hz": _frequency,
    "B": _size,
    "ns": duration,
    "flag": lambda value: "yes" if value else "no",
    "bits": lambda value: f"0x{value:x}",
}


def bars(values: Sequence[float | None]) -> list[str]:
    """A block for each value, by its place between the lowest and the highest; blank for none."""
    known = [value for value in values if value is not None]
    if not known:
        return [" "] * len(values)
    low, span = min(known), max(known) - min(known)
    top = len(_BLOCKS) - 1
    return [
        " " if value is None else _BLOCKS[round((value - low) / span * top) if span else top // 2] for value in values
    ]
