"""Memory of this process, phase by phase, and a limit on it.

VmHWM is the kernel's own high-water mark of this address space. Unlike `ru_maxrss` it is not inherited from the parent,
and writing 5 to clear_refs resets it, so that a transient of a few milliseconds is caught (proc(5)). All figures are
bytes; the kernel gives kB of 1024 bytes, whatever the size of a page.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_STATUS_LINES = ("VmHWM", "VmRSS", "RssAnon", "RssFile", "RssShmem", "VmSwap")
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|fail\w* to allocate|cannot allocate|unable to allocate|out of memory|not enough memory",
    re.IGNORECASE,
)


def reset_peak() -> bool:
    """Start a new high-water mark; False where the kernel does not allow it."""
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def read_memory() -> dict[str, int]:
    """VmHWM, VmRSS, RssAnon, RssFile, RssShmem and VmSwap in bytes; a line that the kernel lacks is left out."""
    lines = _kilobyte_lines(_PROC / "self/status")
    return {name: lines[name] for name in _STATUS_LINES if name in lines}


def read_shares(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> dict[str, int]:
    """What is shared and what is not, in bytes; what cannot be read is left out. Takes up to 50 ms: never in a window.

    `Pss` (each shared page divided by those who share it), `Uss` (Private_Clean + Private_Dirty: what would be freed
    if the process ended) and `SwapPss` from smaps_rollup; `MemAvailable` of the machine; `memory.peak` and
    `memory.current` of the process's own control group (version 2), page cache included.
    """
    rollup = _kilobyte_lines(proc / "self/smaps_rollup")
    figures: dict[str, int] = {name: rollup[name] for name in ("Pss", "SwapPss") if name in rollup}
    if "Private_Clean" in rollup and "Private_Dirty" in rollup:
        figures["Uss"] = rollup["Private_Clean"] + rollup["Private_Dirty"]
    machine = _kilobyte_lines(proc / "meminfo")
    if "MemAvailable" in machine:
        figures["MemAvailable"] = machine["MemAvailable"]
    for name in ("memory.peak", "memory.current"):
        value = _cgroup_value(name, proc, cgroups)
        if value is not None:
            figures[name] = value
    return figures


def apply_memory_limit(limit_bytes: int) -> str:
    """Hold this process to so much memory with RLIMIT_DATA; returns what holds it, for people.

    That counts private writable mappings: heap, arenas, the whole stack of each thread (8 MB as a rule) and the
    writable data of libraries, touched or not, but no files and code that are only mapped. With ONNX Runtime it is
    reached some 45 MB, and 8 MB a further thread, before as much of that is resident; RLIMIT_AS, which counts every
    mapping, some 200 MB before. A control group counts what is resident, and is better where the agent can make one.
    """
    # Each thread of numpy's linear algebra takes 40 MB that it never touches, and a worker has no use for them. This
    # works until numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    return f"{soft} bytes by RLIMIT_DATA"


def group_limit(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> str:
    """The limit of the process's own control group, for people."""
    limit_bytes = _cgroup_value("memory.max", proc, cgroups)
    return f"{'unknown' if limit_bytes is None else limit_bytes} bytes by the control group"


def lack_of_memory(error: BaseException) -> BaseException | None:
    """What says that memory could not be got: this error or one that it was raised from; None where none does.

    Libraries wrap std::bad_alloc and ENOMEM into errors of their own, which only their words tell apart.
    """
    found = None
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, MemoryError) or _OUT_OF_MEMORY.search(str(at)):
            found = at
        at = at.__cause__
    return found


def _kilobyte_lines(path: Path) -> dict[str, int]:
    figures = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            words = value.split()
            if len(words) == 2 and words[1] == "kB":
                figures[name] = int(words[0]) * 1024
    return figures


def _cgroup_value(name: str, proc: Path, cgroups: Path) -> int | None:
    """A number of this process's own control group of version 2; None where there is none ("max" included)."""
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::/"):
                return int((cgroups / line.removeprefix("0::/") / name).read_text(encoding="ascii"))
    return None
