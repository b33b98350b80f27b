"""The monitor chips that the kernel shows: power, supply alarms, over-current events, fans, temperatures.

Chips are known by their names; their numbers change from start to start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.agent.sensors.rails import Rails
from backbench.agent.sensors.reading import OUT_OF_RANGE, Reading, any_positive, found, numbered, read_number, read_word
from backbench.agent.sensors.thermal import temperature_mc, zone_name, zones
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

_Chip = tuple[str, str]
"""Its name and its folder."""
_EVENTS = {"oc1_event_cnt": "undervolt", "oc2_event_cnt": "oc_avg", "oc3_event_cnt": "oc_inst"}
_EVENT_WINDOW_NS = 2_000_000_000
_UNDERVOLTAGE_WINDOW_NS = 2_000_000_000
"""Both come to the kernel in steps of some 2 s."""
_PWM_MAX = 255
_DRIVES = ("nvme", "drivetemp")
_LEGACY_PWM = "sys/devices/pwm-fan/cur_pwm"
_TEMPERATURE = re.compile(r".*/temp(\d+)_input")


class HardwareMonitors:
    """Rails and their total, and whatever else a known chip shows."""

    name = "hwmon"
    rate_hz = 10.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._rails: Rails | None = None
        self._readings: dict[str, Reading] = {}

    def probe(self) -> Coverage:
        """All chips by their names."""
        tree = self._tree
        chips = [chip for chip in _chips(tree) if chip[0] not in _DRIVES]
        self._rails = Rails(tree, chips)
        self._readings = {}
        for make in (_alarms, _supply, _events, _fans, _temperatures):
            for reading in make(tree, chips):
                self._readings[reading.channel.name] = reading
        channels = (*self._rails.channels(), *(reading.channel for reading in self._readings.values()))
        if not channels:
            return Coverage.absent("the kernel shows no monitor chip here that Backbench knows")
        return Coverage(channels)

    def read(self) -> Mapping[str, Value]:
        """All of them."""
        values = self._rails.read() if self._rails is not None else {}
        values.update((name, reading.ask()) for name, reading in self._readings.items())
        return values

    def close(self) -> None:
        """Nothing is held."""


class Drives:
    """Temperatures of disks. Each reading is a command to the disk, so it is a source of its own and a slow one."""

    name = "drives"
    rate_hz = 1.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._readings: tuple[Reading, ...] = ()

    def probe(self) -> Coverage:
        """Every disk that tells its temperature."""
        chips = [chip for chip in _chips(self._tree) if chip[0] in _DRIVES]
        self._readings = tuple(_temperatures(self._tree, chips))
        if not self._readings:
            return Coverage.absent("no disk here tells the kernel its temperature")
        return Coverage(tuple(reading.channel for reading in self._readings))

    def read(self) -> Mapping[str, Value]:
        """All of them."""
        return {reading.channel.name: reading.ask() for reading in self._readings}

    def close(self) -> None:
        """Nothing is held."""


def _chips(tree: Tree) -> list[_Chip]:
    paths = found(tree, "sys/class/hwmon/hwmon*/name")
    return [(name, path.removesuffix("/name")) for path in paths if (name := read_word(tree, path))]


def _alarms(tree: Tree, chips: Sequence[_Chip]) -> Iterator[Reading]:
    """Whether the current of any rail is above its critical limit, which slows a Jetson down."""
    paths = [path for chip, folder in chips if chip == "ina3221" for path in found(tree, f"{folder}/curr*_crit_alarm")]
    if paths:
        channel = SensorChannel("throttle.power.alarm", "flag", "hwmon ina3221", scope="any rail", kind="state")
        yield Reading(channel, lambda: any_positive(read_number(tree, path) for path in paths))


def _supply(tree: Tree, chips: Sequence[_Chip]) -> Iterator[Reading]:
    """A Raspberry Pi's supply, below 4.63 V or not."""
    for chip, folder in chips:
        path = f"{folder}/in0_lcrit_alarm"
        if chip == "rpi_volt" and found(tree, path):
            channel = SensorChannel(
                "throttle.undervoltage.rpi_volt",
                "flag",
                "hwmon rpi_volt",
                scope="board_input",
                window_ns=_UNDERVOLTAGE_WINDOW_NS,
                kind="state",
            )
            yield Reading(channel, _asking(_flag, tree, path))
            return


def _events(tree: Tree, chips: Sequence[_Chip]) -> Iterator[Reading]:
    """How often an Orin's or a Thor's supply made it slow down. `oc*_throt_en` says only that it may."""
    for chip, folder in chips:
        if chip != "soctherm_oc":
            continue
        for file, event in _EVENTS.items():
            path = f"{folder}/{file}"
            if found(tree, path):
                channel = SensorChannel(
                    f"throttle.events.{event}",
                    "count",
                    "hwmon soctherm_oc",
                    scope="since the start of the board",
                    method="total",
                    window_ns=_EVENT_WINDOW_NS,
                    kind="counter",
                )
                yield Reading(channel, _asking(read_number, tree, path))
        return


def _fans(tree: Tree, chips: Sequence[_Chip]) -> Iterator[Reading]:
    paths: dict[str, list[tuple[str, str]]] = {"fan.pwm": [], "fan.rpm": []}
    for chip, folder in chips:
        if chip in ("pwmfan", "pwm_tach"):
            paths["fan.pwm"] += [(path, f"hwmon {chip}") for path in found(tree, f"{folder}/pwm1")]
            speeds = found(tree, f"{folder}/rpm") or found(tree, f"{folder}/fan1_input")
            paths["fan.rpm"] += [(path, f"hwmon {chip}") for path in speeds]
    paths["fan.pwm"] += [(path, "pwm-fan") for path in found(tree, _LEGACY_PWM)]
    taken: list[str] = []
    for kind, unit, ask in (("fan.pwm", "permille", _pwm_permille), ("fan.rpm", "rpm", read_number)):
        for path, source in paths[kind]:
            taken.append(numbered(kind, taken))
            yield Reading(SensorChannel(taken[-1], unit, source, scope="fan"), _asking(ask, tree, path))


def _temperatures(tree: Tree, chips: Sequence[_Chip]) -> Iterator[Reading]:
    """Every temperature that is not a thermal zone's, shown a second time.

    Of Intel's `coretemp` the package alone: reading a core's interrupts that core, which may be the one that measures.
    """
    known = {name.replace("-", "_") for name in zones(tree)}
    taken: list[str] = []
    for chip, folder in chips:
        if zone_name(chip).replace("-", "_") in known:
            continue
        for path in found(tree, f"{folder}/temp*_input"):
            if (place := _TEMPERATURE.fullmatch(path)) is None:
                continue
            label = read_word(tree, f"{folder}/temp{place[1]}_label").lower()
            if chip == "coretemp" and not label.startswith("package"):
                continue
            suffix = label or ("" if place[1] == "1" else place[1])
            name = f"temp.{chip.lower()}.{suffix}" if suffix else f"temp.{chip.lower()}"
            taken.append(numbered(name, taken))
            channel = SensorChannel(taken[-1], "mC", f"hwmon {chip}", scope=label or chip)
            yield Reading(channel, _asking(temperature_mc, tree, path))


def _asking(ask: Callable[[Tree, str], Value], tree: Tree, path: str) -> Callable[[], Value]:
    return lambda: ask(tree, path)


def _flag(tree: Tree, path: str) -> Value:
    """A flag's file."""
    return any_positive((read_number(tree, path),))


def _pwm_permille(tree: Tree, path: str) -> Value:
    value = read_number(tree, path)
    if isinstance(value, Unread):
        return value
    return (value * 1000 + _PWM_MAX // 2) // _PWM_MAX if 0 <= value <= _PWM_MAX else OUT_OF_RANGE
