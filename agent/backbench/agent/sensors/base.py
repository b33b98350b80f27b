"""What a source of telemetry is: channels that it offers here, and one read of all of them.

To add one, write a module with a class that satisfies `Source`, and add a line to `table.py`. A source touches the
machine through its `Tree` alone, so that it reads a recorded board as it reads this one. What the hardware does not
have gets no channel; what cannot be read just now is `Unread` with the system's own code. Nothing ever reads as a
made-up 0.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from backbench.domain.device import SensorChannel


@dataclass(frozen=True, slots=True)
class Unread:
    """A value that exists and cannot be read now; `code` is an errno's name, EILSEQ for text that is no number."""

    code: str


Value = int | Unread
"""A reading in its channel's unit."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a source found here. Without channels, `state` says "absent", "denied" or "off", and `reason` the cure."""

    channels: tuple[SensorChannel, ...] = ()
    state: str = "read"
    reason: str = ""

    @classmethod
    def absent(cls, reason: str) -> Coverage:
        """No such hardware or library here."""
        return cls(state="absent", reason=reason)

    @classmethod
    def denied(cls, reason: str) -> Coverage:
        """It is there, and this user may not read it; `reason` names the group or the right that is missing."""
        return cls(state="denied", reason=reason)


class Source(Protocol):
    """One source, made for a tree, probed once, read at `rate_hz` at most."""

    name: str
    rate_hz: float

    def probe(self) -> Coverage:
        """What there is to read on this machine. Never raises; one attempt at each thing."""

    def read(self) -> Mapping[str, Value]:
        """Every channel's value now, one attempt each. Never raises."""

    def close(self) -> None:
        """Give back descriptors and end helpers. Never raises; may be called twice."""


def unread(error: OSError) -> Unread:
    """The code of a failed read."""
    return Unread(errno.errorcode.get(error.errno or 0, "EIO"))
