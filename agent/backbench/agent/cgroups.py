"""A control group (version 2) a worker, where the system has delegated memory control to the agent.

In it the kernel keeps the worker's peak, page cache, frame table and kernel memory included, and holds a memory limit.
A worker joins when it has started: what the bare interpreter held by then, some 8 MB, stays with the agent.
`Delegate=memory` in the agent's systemd unit is enough; without it there is none of this.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
_OWN = "agent"
_PIDS = 1024
"""Processes and threads in one worker's group, where their number is delegated too."""


@dataclass(frozen=True, slots=True)
class Group:
    """One worker's group, to be removed when the worker has ended."""

    folder: Path

    def add(self, pid: int) -> bool:
        """Put a process in; False where the kernel refuses."""
        return _written(self.folder / "cgroup.procs", str(pid))

    def peak_bytes(self) -> int | None:
        """The most that the group ever held; None where the kernel does not tell (before 5.19)."""
        return _number(self.folder / "memory.peak")

    def kill(self) -> None:
        """Kill everything in it at once, where the kernel can (5.14)."""
        if (self.folder / "cgroup.kill").exists():
            _written(self.folder / "cgroup.kill", "1")

    def out_of_memory_kills(self) -> int:
        """How many processes the group's limit has cost."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self.folder / "memory.events").read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return 0


class Cgroups:
    """Groups below the agent's own one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._live: set[Path] = set()

    @classmethod
    def open(cls, root: Path = _ROOT, pid: int | None = None) -> Cgroups | None:
        """The groups of this agent; None where memory control is not delegated to it.

        A group with members cannot hand out memory control, so the agent moves into one below its own.
        """
        folder = _own_folder(root)
        if folder is None or "memory" not in _words(folder / "cgroup.controllers"):
            return None
        own = folder / _OWN
        with contextlib.suppress(OSError):
            own.mkdir(exist_ok=True)
        if not _written(own / "cgroup.procs", str(pid or os.getpid())):
            return None
        controllers, handed_out = _words(folder / "cgroup.controllers"), folder / "cgroup.subtree_control"
        wanted = [name for name in ("memory", "pids") if name in controllers and name not in _words(handed_out)]
        if wanted and not _written(handed_out, " ".join(f"+{name}" for name in wanted)):
            return None
        return cls(folder)

    @contextlib.contextmanager
    def group(self, limit_bytes: int | None) -> Iterator[Group | None]:
        """A fresh group for one worker, with a limit where one is given; None where it cannot be made."""
        self._remove_empty()
        self._count += 1
        folder = self._folder / f"worker-{os.getpid()}-{self._count}"
        try:
            folder.mkdir()
        except OSError:
            yield None
            return
        self._live.add(folder)
        try:
            limited = limit_bytes is None or _written(folder / "memory.max", str(limit_bytes))
            if limit_bytes is not None:
                _written(folder / "memory.swap.max", "0")
            if (folder / "pids.max").exists():
                _written(folder / "pids.max", str(_PIDS))
            yield Group(folder) if limited else None
        finally:
            self._live.discard(folder)
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _remove_empty(self) -> None:
        """Remove groups whose processes had not all gone when their worker's turn ended, or whose agent was killed."""
        for folder in set(self._folder.glob("worker-*")) - self._live:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _own_folder(root: Path) -> Path | None:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            folder = root / "sys/fs/cgroup" / path.lstrip("/")
            if folder.name == _OWN:  # an agent that was here before has moved already
                folder = folder.parent
            return folder if (folder / "cgroup.procs").exists() else None
    return None


def _written(path: Path, text: str) -> bool:
    try:
        with path.open("w") as file:
            file.write(text)
    except OSError:
        return False
    return True


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
