"""Energy counters of x86 processors (RAPL), and how often their package was too hot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.agent.sensors.reading import Reading, found, numbered, read_number, read_word, total
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

_DOMAINS = "sys/class/powercap/intel-rapl:*/energy_uj"
_COUNTS = "sys/devices/system/cpu/cpu*/thermal_throttle/package_throttle_count"
_DENIED = (Unread("EACCES"), Unread("EPERM"))
_REMEDY = (
    "root alone may read energy_uj, as it can tell secrets of other processes; run the agent as root, "
    "or: sudo chmod o+r /sys/class/powercap/intel-rapl*/energy_uj"
)


class PowerCap:
    """Counters that only grow, but for a wrap at the number that `scope` states."""

    name = "powercap"
    rate_hz = 10.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._readings: dict[str, Reading] = {}

    def probe(self) -> Coverage:
        """Every domain, and the package's count."""
        readings = (*_energies(self._tree), *_throttle_events(self._tree))
        if not readings:
            return Coverage.absent("no RAPL here: a virtual machine, a container or another kind of processor")
        if not any(reading.channel.available for reading in readings):
            return Coverage.denied(_REMEDY)
        self._readings = {reading.channel.name: reading for reading in readings}
        return Coverage(tuple(reading.channel for reading in readings))

    def read(self) -> Mapping[str, Value]:
        """Every counter as it is."""
        return {name: reading.ask() for name, reading in self._readings.items()}

    def close(self) -> None:
        """Nothing is held."""


def _energies(tree: Tree) -> Iterator[Reading]:
    """A domain in a package (core, dram, ...) is named with it: `energy.package-0.dram`."""
    names: dict[str, str] = {}
    for path in found(tree, _DOMAINS):
        folder = path.removesuffix("/energy_uj")
        domain = folder.rpartition("/")[2]
        name = read_word(tree, f"{folder}/name").lower() or domain.replace(":", "-")
        parent = names.get(domain.rpartition(":")[0])
        names[domain] = numbered(name if parent is None else f"{parent}.{name}", names.values())
        yield _energy(tree, path, names[domain], "package" if name.startswith("package") else name)


def _energy(tree: Tree, path: str, name: str, scope: str) -> Reading:
    wrap = read_number(tree, path.removesuffix("energy_uj") + "max_energy_range_uj")
    if not isinstance(wrap, Unread) and wrap > 0:
        scope += f", wraps at {wrap} uJ"
    denied = read_number(tree, path) in _DENIED
    channel = SensorChannel(
        f"energy.{name}", "uJ", "powercap", scope, "measured",
        available=not denied, reason=_REMEDY if denied else "", kind="counter",
    )  # fmt: skip
    return Reading(channel, lambda: read_number(tree, path))


def _throttle_events(tree: Tree) -> Iterator[Reading]:
    """Every processor of a package counts the same events, so one of each package is read."""
    packages: dict[Value, str] = {}
    for path in found(tree, _COUNTS):
        processor = path.removesuffix("/thermal_throttle/package_throttle_count")
        packages.setdefault(read_number(tree, f"{processor}/topology/physical_package_id"), path)
    if packages:
        channel = SensorChannel(
            "throttle.events.package", "count", "thermal_throttle", scope="since the start of the machine",
            method="total", kind="counter",
        )  # fmt: skip
        yield Reading(channel, lambda: total(read_number(tree, path) for path in packages.values()))
