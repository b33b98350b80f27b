"""Resident memory of this process, phase by phase.

VmHWM is the kernel's own high-water mark of this address space. Unlike `ru_maxrss` it is not inherited from the parent,
and writing 5 to clear_refs resets it, so that a transient of a few milliseconds is caught (proc(5)).
"""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_peak() -> bool:
    """Start a new high-water mark; False where the kernel does not allow it."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def read_memory() -> dict[str, int]:
    """VmHWM, VmRSS, RssAnon, RssFile, RssShmem and VmSwap in bytes; a line that the kernel lacks is left out."""
    wanted = ("VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmSwap")
    figures = {}
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name in wanted:
            figures[name] = int(value.split()[0]) * 1024
    return figures
