"""Which processor the sampler has to itself, where a run leaves one free."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/")


def spare_processor(busy: int, root: Path = _ROOT) -> int | None:
    """The processor that `busy` threads leave free; None where they need all of those that this process may use.

    It is one of the slowest kind, and of these the first, to which most interrupts come anyway.
    """
    usable = sorted(os.sched_getaffinity(0))
    return min(usable, key=lambda number: (_highest_khz(root, number), number)) if len(usable) > busy else None


def _highest_khz(root: Path, number: int) -> int:
    try:
        return int((root / f"sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq").read_text())
    except (OSError, ValueError):
        return 0
