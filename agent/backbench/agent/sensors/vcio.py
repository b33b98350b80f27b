"""A Raspberry Pi's firmware: its throttle word, the clock that the processors really get, its own temperature."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from backbench.agent.sensors import mailbox
from backbench.agent.sensors.base import Coverage, Unread, Value, unread
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

_REASONS = ("undervoltage", "frequency", "thermal", "softlimit")
"""Of bits 0 to 3, and 16 to 19: supply below 4.63 V, clock capped, throttled, soft temperature limit."""
_CLOCK = "cpu.clock_delivered.arm"
_TEMPERATURE = "temp.firmware"
_RAW = "throttle.raw.firmware"
_KERNEL_WINDOW_NS = 2_000_000_000
_MAILBOX_WINDOW_NS = 100_000_000
_Read = Callable[[], int]


class Firmware:
    """By the mailbox, else by `vcgencmd`, else the kernel's copy of the throttle word alone, which is 2 s old."""

    name = "vcio"

    def __init__(self, tree: Tree) -> None:
        self.rate_hz = 5.0
        self._tree = tree
        self._word: _Read | None = None
        self._others: dict[str, _Read] = {}

    def probe(self) -> Coverage:
        """The best way that answers; a board without this firmware has none."""
        tree = self._tree
        ways: tuple[tuple[str, _Read, dict[str, _Read]], ...] = (
            (
                "mailbox",
                lambda: mailbox.throttle_word_by_mailbox(tree),
                {
                    _CLOCK: lambda: mailbox.arm_clock_by_mailbox(tree),
                    _TEMPERATURE: lambda: mailbox.temperature_mc(mailbox.command_by_mailbox(tree, "measure_temp")),
                },
            ),
            (
                "vcgencmd",
                lambda: mailbox.throttle_word_by_command(tree),
                {
                    _CLOCK: lambda: mailbox.clock_hz(mailbox.command(tree, "measure_clock arm")),
                    _TEMPERATURE: lambda: mailbox.temperature_mc(mailbox.command(tree, "measure_temp")),
                },
            ),
            ("kernel", lambda: mailbox.throttle_word_by_kernel(tree), {}),
        )
        refused = False
        for way, word, others in ways:
            try:
                word()
            except OSError as error:
                refused = refused or error.errno in (errno.EACCES, errno.EPERM)
                continue
            self._word, self._others = word, {name: read for name, read in others.items() if _answers(read)}
            if way == "vcgencmd":  # three processes a read
                self.rate_hz = 1.0
            return Coverage(self._channels(way))
        if refused:
            return Coverage.denied("no permission for /dev/vcio; add the agent's user to group video")
        return Coverage.absent("no Raspberry Pi firmware here")

    def read(self) -> Mapping[str, Value]:
        """Flags, clock and temperature now."""
        if self._word is None:
            return {}
        values = {name: _value(read) for name, read in self._others.items()}
        word = _value(self._word)
        values[_RAW] = word
        for place, reason in enumerate(_REASONS):
            values[f"throttle.{reason}.firmware"] = _bit(word, place)
            values[f"throttle.latched.{reason}.firmware"] = _bit(word, 16 + place)
        return values

    def close(self) -> None:
        """Nothing is held."""

    def _channels(self, way: str) -> tuple[SensorChannel, ...]:
        source = {"mailbox": "/dev/vcio", "vcgencmd": "vcgencmd", "kernel": "soc:firmware/get_throttled"}[way]
        window_ns = _KERNEL_WINDOW_NS if way == "kernel" else _MAILBOX_WINDOW_NS
        flags = [
            SensorChannel(name, "flag", source, scope=scope, window_ns=window_ns, kind="state")
            for reason in _REASONS
            for name, scope in (
                (f"throttle.{reason}.firmware", "now"),
                (f"throttle.latched.{reason}.firmware", "since the start of the board"),
            )
        ]
        word = SensorChannel(_RAW, "bits", source, window_ns=window_ns, kind="state")
        known = {
            _CLOCK: SensorChannel(_CLOCK, "Hz", source, scope="all processors", method="measured"),
            _TEMPERATURE: SensorChannel(_TEMPERATURE, "mC", source, scope="soc"),
        }
        return (*flags, word, *(known[name] for name in self._others))


def _value(read: _Read) -> Value:
    try:
        return read()
    except OSError as error:
        return unread(error)


def _answers(read: _Read) -> bool:
    """Whether there is such a thing: one that cannot be read just now is there."""
    value = _value(read)
    return not isinstance(value, Unread) or value.code not in ("ENOENT", "EILSEQ", "EIO", "EINVAL")


def _bit(word: Value, place: int) -> Value:
    return word if isinstance(word, Unread) else word >> place & 1
