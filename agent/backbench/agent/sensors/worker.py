"""The workers that are measuring, seen from outside of them: memory, processor time, and what kept them waiting."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.agent.sensors.reading import NO_NUMBER, bounded, content, field, found, number, total
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.trees import LiveTree
from backbench.domain.device import SensorChannel
from backbench.domain.telemetry import WORKER_MEMORY

_SIZES = {"proc.rss": "VmRSS", "proc.peak_rss": "VmHWM", WORKER_MEMORY: "RssAnon"}
_COUNTERS = {
    "proc.cpu_time": ("ns", "/proc/PID/stat", "worker processes"),
    "proc.majflt": ("count", "/proc/PID/stat", "worker processes"),
    "proc.wait_time": ("ns", "/proc/PID/task/TID/schedstat", "threads of the worker processes"),
    "proc.ctx_invol": ("count", "/proc/PID/task/TID/status", "threads of the worker processes"),
}
_GPU_MEMORY = "proc.gpu_mem"
GPU_CLIENTS = "sys/kernel/debug/nvmap/iovmm/clients"
"""The processes that hold memory of a Jetson's GPU, in a tree."""
_TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")
_STAT = re.compile(rb"\d+ \(.*\) \w( -?\d+)+\s*", re.DOTALL)
"""A name in brackets, which may hold anything, the state, and numbers."""
_MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 9, 11, 12
"""Places behind the name."""
_WAITED = re.compile(rb"\d+ (\d+) \d+\s*")
_CLIENT = re.compile(rb"^.* (\d{1,9}) +(\d{1,12})([KMG])\s*$", re.MULTILINE)
_MULTIPLES = {b"K": 1 << 10, b"M": 1 << 20, b"G": 1 << 30}
_NOBODY = Unread("ESRCH")


class WorkerProcesses:
    """Sums over the workers that run just now; unreadable between them, and where one of them cannot be read."""

    name = "worker"
    rate_hz = 5.0

    def __init__(self, tree: Tree | None = None) -> None:
        self._tree = tree or LiveTree()  # also beside a recorded board: it is on this machine that workers run
        self._pids: set[int] = set()
        self._gpu = False

    def begin(self, pid: int) -> None:
        """A worker has started."""
        self._pids.add(pid)

    def end(self, pid: int) -> None:
        """A worker has ended."""
        self._pids.discard(pid)

    def probe(self) -> Coverage:
        """What the kernel tells of any process; of GPU memory on a Jetson alone, and to root alone."""
        self._gpu = bool(found(self._tree, GPU_CLIENTS))
        sizes = [SensorChannel(name, "B", "/proc/PID/status", scope="worker processes") for name in _SIZES]
        counters = [
            SensorChannel(name, unit, source, scope=scope, method="total", kind="counter")
            for name, (unit, source, scope) in _COUNTERS.items()
        ]
        gpu = [SensorChannel(_GPU_MEMORY, "B", f"/{GPU_CLIENTS}", scope="worker processes")] if self._gpu else []
        return Coverage((*sizes, *counters, *gpu))

    def read(self) -> Mapping[str, Value]:
        """Every sum now."""
        workers = [_worker(self._tree, pid) for pid in sorted(self._pids)]
        names = (*_SIZES, *_COUNTERS)
        values = {name: total(worker[name] for worker in workers) if workers else _NOBODY for name in names}
        if self._gpu:
            values[_GPU_MEMORY] = gpu_memory(content(self._tree, GPU_CLIENTS), self._pids)
        return values

    def close(self) -> None:
        """Give back the descriptors of the workers' files."""
        self._tree.close()


def _worker(tree: Tree, pid: int) -> dict[str, Value]:
    """One process. What a thread waited goes with the thread when it ends."""
    status = content(tree, f"proc/{pid}/status")
    stat = content(tree, f"proc/{pid}/stat")
    threads = [path.removesuffix("/schedstat") for path in found(tree, f"proc/{pid}/task/*/schedstat")]
    ticks = total(_stat_field(stat, place) for place in (_USER_TICKS, _SYSTEM_TICKS))
    values: dict[str, Value] = {name: field(status, key) for name, key in _SIZES.items()}
    values["proc.cpu_time"] = ticks if isinstance(ticks, Unread) else bounded(ticks * _TICK_NS)
    values["proc.majflt"] = _stat_field(stat, _MAJOR_FAULTS)
    values["proc.wait_time"] = _over_threads([_waited_ns(content(tree, f"{path}/schedstat")) for path in threads])
    values["proc.ctx_invol"] = _over_threads(
        [field(content(tree, f"{path}/status"), "nonvoluntary_ctxt_switches") for path in threads]
    )
    return values


def _over_threads(values: list[Value]) -> Value:
    """The sum; a thread that ended between the listing and the reading is left out."""
    there = [value for value in values if value not in (Unread("ENOENT"), _NOBODY)]
    return total(there) if there else _NOBODY


def _stat_field(text: bytes | Unread, place: int) -> Value:
    if isinstance(text, Unread):
        return text
    fields = text.rpartition(b")")[2].split() if _STAT.fullmatch(text) else []
    return number(fields[place]) if place < len(fields) else NO_NUMBER


def _waited_ns(text: bytes | Unread) -> Value:
    if isinstance(text, Unread):
        return text
    waited = _WAITED.fullmatch(text)
    return NO_NUMBER if waited is None else number(waited[1])


def gpu_memory(text: bytes | Unread, pids: set[int]) -> Value:
    """What the processes took, by the text of `GPU_CLIENTS`.

    One that is not listed may be known there by another number, as in a container.
    """
    if isinstance(text, Unread):
        return text
    sizes: dict[int, int] = {}
    for pid, size, multiple in _CLIENT.findall(text):
        sizes[int(pid)] = sizes.get(int(pid), 0) + int(size) * _MULTIPLES[multiple]
    return sum(sizes[pid] for pid in pids) if pids and pids <= sizes.keys() else _NOBODY
