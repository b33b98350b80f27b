"""The kernel's thermal zones, and whether one of its cooling devices slows something down just now."""

from __future__ import annotations

import re
from collections.abc import Mapping

from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.agent.sensors.reading import any_positive, found, numbered, read_number, read_word
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

THROTTLED = "throttle.thermal.cooling"
HOT_SURFACE = "throttle.advisory.hot_surface"
_ENDINGS = re.compile(r"([-_]thermal|[-_]therm|_tegra)$")
_CONSTANT_ZONES = ("pmic-die",)
"""These show one value whatever the temperature: 100 C on a Nano, 50 C on a Xavier."""
_OFF_MC = -256_000
_WITNESS = re.compile(
    r"(.*-throttle-alert|(thermal-)?(cpufreq|devfreq)-.*|Processor|intel_powerclamp|.*-(balanced|emergency))"
)
_ADVISORY = "hot-surface-alert"
"""A warning of the board's surface, on at 70 C on an Orin that throttles at 99 C."""


class ThermalZones:
    """A temperature a zone. A fan that turns is no sign of throttling, a processor held back is."""

    name = "thermal"
    rate_hz = 5.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._zones: dict[str, str] = {}
        self._witnesses: tuple[str, ...] = ()
        self._advisories: tuple[str, ...] = ()

    def probe(self) -> Coverage:
        """Zones and cooling devices by their types: their numbers change from start to start."""
        self._zones = zones(self._tree)
        devices = [
            (read_word(self._tree, path.removesuffix("cur_state") + "type"), path)
            for path in found(self._tree, "sys/class/thermal/cooling_device*/cur_state")
        ]
        self._witnesses = tuple(path for kind, path in devices if _WITNESS.fullmatch(kind))
        self._advisories = tuple(path for kind, path in devices if kind == _ADVISORY)
        channels = [SensorChannel(f"temp.{zone}", "mC", "thermal zone", scope=zone) for zone in self._zones]
        if self._witnesses:
            channels.append(SensorChannel(THROTTLED, "flag", "cooling devices", scope="system", kind="state"))
        if self._advisories:
            channels.append(SensorChannel(HOT_SURFACE, "flag", "cooling device", scope="board", kind="state"))
        if not channels:
            return Coverage.absent("the kernel shows no thermal zones here, as in most virtual machines and containers")
        return Coverage(tuple(channels))

    def read(self) -> Mapping[str, Value]:
        """Every temperature and both flags."""
        values = {f"temp.{zone}": temperature_mc(self._tree, path) for zone, path in self._zones.items()}
        for name, paths in ((THROTTLED, self._witnesses), (HOT_SURFACE, self._advisories)):
            if paths:
                values[name] = any_positive(read_number(self._tree, path) for path in paths)
        return values

    def close(self) -> None:
        """Nothing is held."""


def zones(tree: Tree) -> dict[str, str]:
    """The file of every zone's temperature by the zone's name, which is the same on every JetPack."""
    named: dict[str, str] = {}
    for path in found(tree, "sys/class/thermal/thermal_zone*/temp"):
        name = zone_name(read_word(tree, path.removesuffix("temp") + "type"))
        if name and name not in _CONSTANT_ZONES:
            named[numbered(name, named)] = path
    return named


def zone_name(kind: str) -> str:
    """`CPU-therm` of JetPack 5, `cpu-thermal` of JetPack 6 and the monitor `cpu_thermal` are all `cpu`."""
    return _ENDINGS.sub("", kind.lower())


def temperature_mc(tree: Tree, path: str) -> Value:
    """A temperature; JetPack 5 shows -256 C for a part that is off."""
    value = read_number(tree, path)
    return Unread("ENODATA") if not isinstance(value, Unread) and value <= _OFF_MC else value
