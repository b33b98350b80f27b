"""What else goes on at the machine: disks, network and processes, by psutil."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psutil

from backbench.agent.sensors.base import Coverage, Unread, Value, unread
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

_DISKS = {"disk.read": "read_bytes", "disk.written": "write_bytes"}
_NETWORK = {"net.received": "bytes_recv", "net.sent": "bytes_sent"}
_PROCESSES = "processes"


class Activity:
    """Counters of all disks and all networks, and how many processes there are."""

    name = "psutil"
    rate_hz = 1.0

    def __init__(self, tree: Tree) -> None:
        self._simulated = tree.simulated
        self._names: tuple[str, ...] = ()

    def probe(self) -> Coverage:
        """A recorded board has no disks of its own; a container may show none."""
        if self._simulated:
            return Coverage.absent("a recorded board has no disks, network and processes of its own")
        self._names = tuple(name for name, value in _values().items() if value != _NONE)
        if not self._names:
            return Coverage.absent("the system shows no disks, network and processes here")
        return Coverage(tuple(_channel(name) for name in self._names))

    def read(self) -> Mapping[str, Value]:
        """All of them."""
        if not self._names:
            return {}
        values = _values()
        return {name: values[name] for name in self._names}

    def close(self) -> None:
        """Nothing is held."""


_NONE = Unread("ENODEV")


def _values() -> dict[str, Value]:
    values: dict[str, Value] = {}
    for ask, fields in ((psutil.disk_io_counters, _DISKS), (psutil.net_io_counters, _NETWORK)):
        values.update(_counters(ask, fields))
    try:
        values[_PROCESSES] = len(psutil.pids())
    except OSError as error:
        values[_PROCESSES] = unread(error)
    return values


def _counters(ask: Callable[[], Any], fields: Mapping[str, str]) -> dict[str, Value]:
    try:
        counters = ask()
    except OSError as error:
        return dict.fromkeys(fields, unread(error))
    except (NotImplementedError, RuntimeError, ValueError):  # a kernel whose table psutil does not know
        return dict.fromkeys(fields, Unread("EILSEQ"))
    if counters is None:
        return dict.fromkeys(fields, _NONE)
    return {name: int(getattr(counters, field)) for name, field in fields.items()}


def _channel(name: str) -> SensorChannel:
    if name == _PROCESSES:
        return SensorChannel(name, "count", "psutil", scope="system")
    scope = "all disks" if name in _DISKS else "all network interfaces"
    return SensorChannel(name, "B", "psutil", scope=scope, method="total", kind="counter")
