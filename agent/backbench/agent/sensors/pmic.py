"""The power management chip of a Raspberry Pi 5: current and voltage of each of its outputs.

One reading takes the firmware some 23 ms, so it is an extra source. The outputs are not all that the board takes: its
total is estimated as 1.1451 times their sum and 0.5879 W, a fit that users made with a meter at the input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from backbench.agent.sensors import mailbox
from backbench.agent.sensors.base import Coverage, Unread, Value, unread
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

_LINE = re.compile(r"\s*(\S+?)_([AV])\s+(?:current|volt)\(\d+\)=(\d{1,6}(?:\.\d{1,12})?)[AV]\s*")
_COMMAND = "pmic_read_adc"
_INPUT = "EXT5V"
_FACTOR, _OFFSET_MW = 1.1451, 587.9
_Answer = Callable[[], str]


class Pmic:
    """Power of every output in mW, the board's estimated, and the voltage at its input."""

    name = "pmic"
    rate_hz = 1.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._ask: _Answer | None = None
        self._rails: tuple[str, ...] = ()

    def probe(self) -> Coverage:
        """The outputs that have a current and a voltage."""
        tree = self._tree
        ways: tuple[_Answer, ...] = (
            lambda: mailbox.command_by_mailbox(tree, _COMMAND),
            lambda: mailbox.command(tree, _COMMAND),
        )
        said = "no Raspberry Pi firmware here"
        for ask in ways:
            try:
                answer = ask()
            except OSError as error:
                if error.errno is not None and unread(error).code in ("EACCES", "EPERM"):
                    said = "no permission for /dev/vcio; add the agent's user to group video"
                continue
            amperes, volts = _parsed(answer)
            self._rails = tuple(name for name in amperes if name in volts)
            if self._rails:
                self._ask = ask
                return Coverage(self._channels())
            said = "this board has no power sensor; only a Raspberry Pi 5 has one"
        return Coverage.denied(said) if said.startswith("no permission") else Coverage.absent(said)

    def read(self) -> Mapping[str, Value]:
        """All outputs by one request; one that is missing in the answer makes the total unreadable."""
        if self._ask is None:
            return {}
        try:
            amperes, volts = _parsed(self._ask())
        except OSError as error:
            return dict.fromkeys(self._names(), unread(error))
        values: dict[str, Value] = {}
        milliwatts = {name: amperes[name] * volts[name] * 1000 for name in amperes if name in volts}
        for name in self._rails:
            found = milliwatts.get(name)
            values[f"power.rail.{name}"] = Unread("EILSEQ") if found is None else round(found)
        whole = all(name in milliwatts for name in self._rails)
        total = _FACTOR * sum(milliwatts[name] for name in self._rails) + _OFFSET_MW if whole else None
        values["power.total"] = Unread("EILSEQ") if total is None else round(total)
        values["power.input"] = round(volts[_INPUT] * 1000) if _INPUT in volts else Unread("EILSEQ")
        return values

    def close(self) -> None:
        """Nothing is held."""

    def _names(self) -> tuple[str, ...]:
        return (*(f"power.rail.{name}" for name in self._rails), "power.total", "power.input")

    def _channels(self) -> tuple[SensorChannel, ...]:
        rails = (
            SensorChannel(f"power.rail.{name}", "mW", _COMMAND, scope="output of the PMIC", method="measured")
            for name in self._rails
        )
        return (
            *rails,
            SensorChannel("power.total", "mW", _COMMAND, scope="pmic_rails", method="estimated"),
            SensorChannel("power.input", "mV", _COMMAND, scope="board_input", method="measured"),
        )


def _parsed(answer: str) -> tuple[dict[str, float], dict[str, float]]:
    """Amperes and volts by the name of the output; lines that say something else are left out."""
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for line in answer.splitlines():
        if (found := _LINE.fullmatch(line)) is not None:
            (amperes if found[2] == "A" else volts)[found[1]] = float(found[3])
    return amperes, volts
