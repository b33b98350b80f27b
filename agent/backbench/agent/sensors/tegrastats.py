"""What `tegrastats` prints on a Jetson: the one trustworthy share of the memory's bandwidth, and a cross-check.

The line has other parts on every JetPack, so it is read by families of tokens and never by place; what is not known is
passed over. It prints a line a second, which is stamped when it comes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from backbench.agent.sensors.base import Coverage, Unread, Value, unread
from backbench.agent.sensors.freq import EMC_CLOCKS
from backbench.agent.sensors.reading import first_found
from backbench.agent.sensors.tree import Stream, Tree
from backbench.domain.device import SensorChannel

_ARGUMENTS = ("tegrastats", "--interval", "1000")
_FIRST_LINE_S = 3.0
_POLL_S = 0.02
_SECOND_NS = 10**9
_MEMORY = re.compile(r"\bRAM (\d{1,9})/(\d{1,9})MB")
_EMC = re.compile(r"\bEMC_FREQ (\d{1,9})%(?:@(\d{1,9}))?")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d{1,9})%)?(?:@\[?(\d{1,9})[\d,]*\]?)?")
_TEMPERATURE = re.compile(r"\b(\w+)@(-?\d{1,5}(?:\.\d{1,6})?)C(?:/-?[\d.]+C)?(?=\s|$)")
_RAIL = re.compile(r"(?:^|\s)([A-Z][A-Z0-9_]*) (\d{1,9})(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?=\s|$)")
_NO_RAILS = ("RAM", "SWAP", "IRAM", "NC")
_OFF_C = -256


class Tegrastats:
    """The newest line of a `tegrastats` that goes on as long as the source is open."""

    name = "tegrastats"
    rate_hz = 1.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._stream: Stream | None = None
        self._units: dict[str, str] = {}

    def probe(self) -> Coverage:
        """Waits for the first line, 3 seconds at most."""
        try:
            self._stream = self._tree.stream(_ARGUMENTS)
            line = _first_line(self._stream)
        except OSError as error:
            self.close()
            return _refusal(unread(error).code)
        if line is None:
            self.close()
            return Coverage.absent(f"tegrastats printed nothing for {_FIRST_LINE_S:.0f} s; try it by hand")
        self._units = {name: _unit(name) for name in parse(line)}
        if first_found(self._tree, EMC_CLOCKS) is not None:
            self._units.pop("emc.clock", None)  # the kernel tells it too, and more often
        return Coverage(tuple(_channel(name, unit) for name, unit in self._units.items()))

    def read(self) -> Mapping[str, Value]:
        """The newest line's values; EAGAIN where none came since the last read."""
        if self._stream is None:
            return dict.fromkeys(self._units, Unread("ENODATA"))
        try:
            line = self._stream.latest()
        except OSError as error:
            return dict.fromkeys(self._units, unread(error))
        if line is None:
            return dict.fromkeys(self._units, Unread("EAGAIN"))
        values = parse(line.decode("utf-8", "replace"))
        return {name: values.get(name, Unread("ENODATA")) for name in self._units}

    def close(self) -> None:
        """End the program."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def parse(line: str) -> dict[str, Value]:
    """The values that a line holds, by channel; what is off or of an unknown kind is not there."""
    values: dict[str, Value] = {}
    if (found := _MEMORY.search(line)) is not None:
        values["tegrastats.mem.used"] = int(found[1]) << 20
    for pattern, util, clock in (
        (_EMC, "emc.util", "emc.clock"),
        (_GPU, "tegrastats.gpu.util", "tegrastats.gpu.clock"),
    ):
        if (found := pattern.search(line)) is None:
            continue
        if found[1] is not None:
            values[util] = int(found[1]) * 10
        if found[2] is not None and int(found[2]):  # 0 is a clock that is gated
            values[clock] = int(found[2]) * 10**6
    for name, celsius in _TEMPERATURE.findall(line):
        if float(celsius) > _OFF_C and name.upper() != "PMIC":
            values[f"tegrastats.temp.{name.lower()}"] = round(float(celsius) * 1000)
    for name, milliwatts in _RAIL.findall(line):
        if name not in _NO_RAILS:
            values[f"tegrastats.power.rail.{name}"] = int(milliwatts)
    return values


def _first_line(stream: Stream) -> str | None:
    until_ns = time.perf_counter_ns() + round(_FIRST_LINE_S * _SECOND_NS)
    while (line := stream.latest()) is None:
        if time.perf_counter_ns() > until_ns:
            return None
        time.sleep(_POLL_S)
    return line.decode("utf-8", "replace")


def _refusal(code: str) -> Coverage:
    if code in ("EACCES", "EPERM"):
        return Coverage.denied("this user may not execute tegrastats; run the agent as a user who may")
    if code == "ENOENT":
        return Coverage.absent("tegrastats is not installed; only a Jetson has it")
    return Coverage.absent(f"tegrastats ended at once ({code}); try it by hand")


def _unit(name: str) -> str:
    for ending, unit in ((".util", "permille"), (".clock", "Hz"), (".mem.used", "B")):
        if name.endswith(ending):
            return unit
    return "mC" if ".temp." in name else "mW"


def _channel(name: str, unit: str) -> SensorChannel:
    method = "average" if unit == "permille" else "instant"
    window_ns = _SECOND_NS if unit == "permille" else None
    return SensorChannel(name, unit, "tegrastats", method=method, window_ns=window_ns)
