"""The memory of the worker that is measuring, read from outside of it: what a leak of many minutes shows in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backbench.domain.device import SensorChannel

CHANNEL = "memory.worker_anonymous"
_PROC = Path("/proc")


class WorkerMemory:
    """Anonymous resident memory of the workers that run just now, together; None between them."""

    name = "worker"

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._pids: set[int] = set()

    def begin(self, pid: int) -> None:
        """A worker has started."""
        self._pids.add(pid)

    def end(self, pid: int) -> None:
        """A worker has ended."""
        self._pids.discard(pid)

    def channels(self) -> tuple[SensorChannel, ...]:
        """The one channel."""
        return (SensorChannel(CHANNEL, "B", "/proc/PID/status RssAnon", scope="worker processes"),)

    def read(self) -> Mapping[str, int | None]:
        """The sum over the workers; None where there is none, or one cannot be read."""
        sizes = [_anonymous_bytes(self._proc / str(pid) / "status") for pid in self._pids]
        known = [size for size in sizes if size is not None]
        return {CHANNEL: sum(known) if known and len(known) == len(sizes) else None}


def _anonymous_bytes(status: Path) -> int | None:
    try:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None
