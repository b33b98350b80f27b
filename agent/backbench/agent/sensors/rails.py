"""Power by rail, from the monitor chips on a board, and what of it is the board's total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backbench.agent.sensors.base import Unread, Value
from backbench.agent.sensors.reading import found, numbered, read_number, read_word, total
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

TOTAL = "power.total"
INPUT = "power.input"
_INPUTS = {"VIN": "board_input", "POM_5V_IN": "module_input", "VDD_IN": "module_input"}
"""Rails through which everything flows, the outermost first, and what "everything" is."""
_APART = "VDDQ"
"""An AGX Orin's memory rail may be a part of VIN_SYS_5V0, which is measured too, so it is left out of the sum."""
_NOT_CONNECTED = "NC"
_LEGACY = "sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"


@dataclass(frozen=True, slots=True)
class Rail:
    """One rail: its files, and over how long the chip averages where it says so."""

    label: str
    labelled: bool
    source: str
    millivolts: str
    milliamperes: str
    milliwatts: str = ""
    microwatts: str = ""
    window_ns: int | None = None

    def power_mw(self, tree: Tree) -> Value:
        """What the chip says, else the product of voltage and current."""
        if self.milliwatts:
            return read_number(tree, self.milliwatts)
        if self.microwatts:
            return _thousandth(read_number(tree, self.microwatts))
        millivolts, milliamperes = read_number(tree, self.millivolts), read_number(tree, self.milliamperes)
        if isinstance(millivolts, Unread):
            return millivolts
        return milliamperes if isinstance(milliamperes, Unread) else _thousandth(millivolts * milliamperes)


class Rails:
    """Every rail of a board and its total."""

    def __init__(self, tree: Tree, chips: Sequence[tuple[str, str]]) -> None:
        self._tree = tree
        self._rails: dict[str, Rail] = {}
        for rail in (*_monitored(tree, chips), *_legacy(tree)):
            if rail.label.upper() != _NOT_CONNECTED:
                self._rails[numbered(rail.label, self._rails)] = rail
        self._input = next((label for label in _INPUTS if label in self._rails), None)
        self._summed = self._parts_of_sum()

    def channels(self) -> tuple[SensorChannel, ...]:
        """One a rail, the total and the voltage at the input."""
        channels = [
            SensorChannel(f"power.rail.{label}", "mW", rail.source, "rail", "measured", rail.window_ns)
            for label, rail in self._rails.items()
        ]
        if self._input is not None:
            rail, scope = self._rails[self._input], _INPUTS[self._input]
            channels.append(SensorChannel(TOTAL, "mW", rail.source, scope, "measured", rail.window_ns))
            channels.append(SensorChannel(INPUT, "mV", rail.source, scope, "measured", rail.window_ns))
        elif self._summed:
            windows = [self._rails[label].window_ns for label in self._summed]
            known = [window for window in windows if window is not None]
            window_ns = max(known) if len(known) == len(windows) else None
            source = " + ".join(self._summed)
            channels.append(SensorChannel(TOTAL, "mW", source, "sum_of_rails", "summed", window_ns))
        return tuple(channels)

    def read(self) -> dict[str, Value]:
        """Every rail once; the total is made of the same readings."""
        powers = {label: rail.power_mw(self._tree) for label, rail in self._rails.items()}
        values = {f"power.rail.{label}": power for label, power in powers.items()}
        if self._input is not None:
            values[TOTAL] = powers[self._input]
            values[INPUT] = read_number(self._tree, self._rails[self._input].millivolts)
        elif self._summed:
            values[TOTAL] = total(powers[label] for label in self._summed)
        return values

    def _parts_of_sum(self) -> tuple[str, ...]:
        """None where a rail is unnamed: it may be the input, or one that another has in it."""
        if self._input is not None or not all(rail.labelled for rail in self._rails.values()):
            return ()
        return tuple(label for label in self._rails if not label.startswith(_APART))


def _monitored(tree: Tree, chips: Sequence[tuple[str, str]]) -> list[Rail]:
    """Of the kernel's monitor drivers: INA3221 from JetPack 5 on, INA238 at the input of a Thor's carrier."""
    rails: list[Rail] = []
    for chip, folder in chips:
        files = set(found(tree, f"{folder}/*"))
        if chip == "ina3221":
            window_ns = _window_ns(tree, folder, files)
            for place in (1, 2, 3):  # 4 to 7 are voltages across shunts
                if f"{folder}/in{place}_input" in files and f"{folder}/curr{place}_input" in files:
                    label = read_word(tree, f"{folder}/in{place}_label")
                    rails.append(
                        Rail(
                            label or f"CH{place}",
                            bool(label),
                            f"hwmon {chip}",
                            f"{folder}/in{place}_input",
                            f"{folder}/curr{place}_input",
                            window_ns=window_ns,
                        )
                    )
        elif chip == "ina238":
            power = f"{folder}/power1_input"
            rails.append(
                Rail(
                    "VIN",
                    True,
                    f"hwmon {chip}",
                    f"{folder}/in1_input",
                    f"{folder}/curr1_input",
                    microwatts=power if power in files else "",
                )
            )
    return rails


def _legacy(tree: Tree) -> list[Rail]:
    """Of NVIDIA's own INA3221 driver in JetPack 4."""
    rails: list[Rail] = []
    for path in found(tree, _LEGACY):
        folder, _, file = path.rpartition("/")
        place = file.removeprefix("rail_name_")
        label = read_word(tree, path)
        power = f"{folder}/in_power{place}_input"
        rails.append(
            Rail(
                label or f"CH{place}",
                bool(label),
                "iio ina3221x",
                f"{folder}/in_voltage{place}_input",
                f"{folder}/in_current{place}_input",
                milliwatts=power if found(tree, power) else "",
            )
        )
    return rails


def _window_ns(tree: Tree, folder: str, files: set[str]) -> int | None:
    """The update interval is the time of all samples of all channels: what a value is an average over."""
    path = f"{folder}/update_interval"
    if path not in files:
        return None
    value = read_number(tree, path, 10**6)
    return None if isinstance(value, Unread) or value <= 0 else value


def _thousandth(value: Value) -> Value:
    return value if isinstance(value, Unread) else (value + 500) // 1000
