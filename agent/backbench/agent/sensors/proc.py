"""The whole system's memory and processors, and for how long something waited for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.agent.sensors.reading import NO_NUMBER, content, field, found, number, total
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

_MEMORY = "proc/meminfo"
_STAT = "proc/stat"
_PRESSURES = {"cpu": "proc/pressure/cpu", "mem": "proc/pressure/memory", "io": "proc/pressure/io"}
_ABSENT = ("ENOENT", "ENOTSUP")
"""A kernel has no such file, or pressure is switched off at its start (`psi=1` switches it on)."""
_PRESSURE_LINE = re.compile(rb"^(some|full) .*\btotal=(\d{1,18})\s*$", re.MULTILINE)
_GROUP_LINE = re.compile(rb"^(\w+) (\d{1,18})\s*$", re.MULTILINE)
_STAT_LINE = re.compile(rb"^cpu(\d*) +(\d{1,15}(?: +\d{1,15}){3,9})\s*$", re.MULTILINE)
_IDLE, _IO_WAIT, _GUEST = 3, 4, 8
_THROTTLED = {"cgroup.throttled": "throttled_usec", "cgroup.nr_throttled": "nr_throttled"}
_Ticks = dict[str, tuple[int, int]]
"""Busy and all ticks by processor; "" is all of them together."""


class System:
    """Memory, load and pressure of the machine, and what quotas of its control groups cost the agent."""

    name = "proc"
    rate_hz = 5.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._memory: tuple[str, ...] = ()
        self._pressures: dict[str, tuple[str, str]] = {}
        self._processors: tuple[str, ...] = ()
        self._ticks: _Ticks | Unread = NO_NUMBER
        self._groups: tuple[str, ...] = ()

    def probe(self) -> Coverage:
        """What this kernel has; loads are counted from here on."""
        channels = (*self._probe_memory(), *self._probe_load(), *self._probe_pressure(), *self._probe_groups())
        if not channels:
            return Coverage.absent("there is no /proc here")
        return Coverage(channels)

    def read(self) -> Mapping[str, Value]:
        """All of it."""
        return {**self._read_memory(), **self._read_load(), **self._read_pressure(), **self._read_groups()}

    def close(self) -> None:
        """Nothing is held."""

    def _probe_memory(self) -> Iterator[SensorChannel]:
        text = content(self._tree, _MEMORY)
        self._memory = ()
        if isinstance(text, Unread) and text.code in _ABSENT:
            return
        self._memory = (
            "mem.total", "mem.available", "mem.used",
            *(("mem.swap_used",) if not isinstance(field(text, "SwapTotal"), Unread) else ()),
            *(("mem.gpu_shared",) if not isinstance(field(text, "NvMapMemUsed"), Unread) else ()),
        )  # fmt: skip
        for name in self._memory:
            scope = "GPU's part of the system's memory" if name == "mem.gpu_shared" else "system"
            yield SensorChannel(name, "B", "/proc/meminfo", scope=scope)

    def _read_memory(self) -> dict[str, Value]:
        if not self._memory:
            return {}
        text = content(self._tree, _MEMORY)
        whole, available = field(text, "MemTotal"), field(text, "MemAvailable")
        values = {
            "mem.total": whole,
            "mem.available": available,
            "mem.used": _difference(whole, available),
            "mem.swap_used": _difference(field(text, "SwapTotal"), field(text, "SwapFree")),
            "mem.gpu_shared": field(text, "NvMapMemUsed"),
        }
        return {name: values[name] for name in self._memory}

    def _probe_load(self) -> Iterator[SensorChannel]:
        text = content(self._tree, _STAT)
        self._processors = ()
        if isinstance(text, Unread) and text.code in _ABSENT:
            return
        self._ticks = _ticks(text)
        self._processors = ("",) if isinstance(self._ticks, Unread) else tuple(self._ticks)
        for processor in self._processors:
            scope = f"processor {processor}" if processor else "all processors"
            yield SensorChannel(_load_name(processor), "permille", "/proc/stat", scope=scope, method="average")

    def _read_load(self) -> dict[str, Value]:
        """The share since the last read; none where no tick came since, as they are 10 ms apart."""
        if not self._processors:
            return {}
        before, now = self._ticks, _ticks(content(self._tree, _STAT))
        shares = {processor: _busy_permille(processor, before, now) for processor in self._processors}
        if not isinstance(now, Unread):
            self._ticks = now
        return {_load_name(processor): share for processor, share in shares.items()}

    def _probe_pressure(self) -> Iterator[SensorChannel]:
        self._pressures = {}
        for resource, path in _PRESSURES.items():
            text = content(self._tree, path)
            if isinstance(text, Unread):
                kinds = [] if text.code in _ABSENT else ["some"]
            else:
                kinds = [kind.decode() for kind, _ in _PRESSURE_LINE.findall(text)]
            for kind in kinds:
                name = f"psi.{resource}.{kind}"
                self._pressures[name] = (path, kind)
                yield SensorChannel(name, "us", f"/{path}", scope="system", method="total", kind="counter")

    def _read_pressure(self) -> dict[str, Value]:
        texts = {path: content(self._tree, path) for path in {path for path, _ in self._pressures.values()}}
        return {name: _pressure_us(texts[path], kind) for name, (path, kind) in self._pressures.items()}

    def _probe_groups(self) -> Iterator[SensorChannel]:
        paths = _group_files(self._tree)
        # A group that hands no processor time out has neither count.
        self._groups = tuple(path for path in paths if b"nr_throttled" in _counts(content(self._tree, path)))
        if not self._groups:
            return
        for name, unit in (("cgroup.throttled", "us"), ("cgroup.nr_throttled", "count")):
            yield SensorChannel(
                name, unit, "cgroup cpu.stat", scope="the agent's group and those above it", method="total",
                kind="counter",
            )  # fmt: skip

    def _read_groups(self) -> dict[str, Value]:
        if not self._groups:
            return {}
        texts = [content(self._tree, path) for path in self._groups]
        return {
            name: total(
                text if isinstance(text, Unread) else _counts(text).get(key.encode(), NO_NUMBER) for text in texts
            )
            for name, key in _THROTTLED.items()
        }


def _difference(whole: Value, rest: Value) -> Value:
    if isinstance(whole, Unread):
        return whole
    return rest if isinstance(rest, Unread) else whole - rest


def _load_name(processor: str) -> str:
    return f"cpu.util.{processor}" if processor else "cpu.util"


def _ticks(text: bytes | Unread) -> _Ticks | Unread:
    if isinstance(text, Unread):
        return text
    ticks: _Ticks = {}
    for processor, fields in _STAT_LINE.findall(text):
        counts = [int(field) for field in fields.split()][:_GUEST]  # guests' time is in the user's too
        whole = sum(counts)
        ticks[processor.decode()] = (whole - sum(counts[_IDLE : _IO_WAIT + 1]), whole)
    return ticks if "" in ticks else NO_NUMBER


def _busy_permille(processor: str, before: _Ticks | Unread, now: _Ticks | Unread) -> Value:
    if isinstance(now, Unread):
        return now
    if isinstance(before, Unread):
        return before
    if processor not in now or processor not in before:
        return Unread("ENODEV")  # it is off
    busy, whole = (after - first for first, after in zip(before[processor], now[processor], strict=True))
    if whole == 0:
        return Unread("EAGAIN")
    return min(1000, busy * 1000 // whole) if whole > 0 and busy >= 0 else Unread("ERANGE")


def _pressure_us(text: bytes | Unread, kind: str) -> Value:
    if isinstance(text, Unread):
        return text
    totals = {found_kind.decode(): count for found_kind, count in _PRESSURE_LINE.findall(text)}
    return number(totals[kind]) if kind in totals else NO_NUMBER


def _counts(text: bytes | Unread) -> dict[bytes, Value]:
    return {} if isinstance(text, Unread) else {name: number(count) for name, count in _GROUP_LINE.findall(text)}


def _group_files(tree: Tree) -> list[str]:
    """Of the agent's own group (version 2) and those above it; of a recorded board, the groups that were recorded."""
    if tree.simulated:
        return found(tree, "sys/fs/cgroup/*/cpu.stat")
    text = content(tree, "proc/self/cgroup")
    own = None if isinstance(text, Unread) else re.search(rb"^0::(/.*)$", text, re.MULTILINE)
    if own is None or not found(tree, "sys/fs/cgroup/cgroup.controllers"):
        return []
    parts = [part for part in own[1].decode("utf-8", "surrogateescape").split("/") if part]
    folders = ["/".join(("sys/fs/cgroup", *parts[:depth])) for depth in range(len(parts), -1, -1)]
    return [f"{folder}/cpu.stat" for folder in folders]
