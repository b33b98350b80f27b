"""The only way by which a source touches the machine: this one, another root, or a recorded board in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Stream(Protocol):
    """A command that goes on and prints lines."""

    def latest(self) -> bytes | None:
        """The newest whole line since the last call; None without one. Raises OSError once the command has ended."""

    def close(self) -> None:
        """End the command and reap it."""


class Tree(Protocol):
    """A machine to read. Paths are relative to its root ("sys/class/thermal/..."); only OSError is ever raised."""

    simulated: bool

    def read(self, path: str) -> bytes:
        """A file's content by one attempt: EAGAIN, EACCES, ENOENT, ENODEV and so on are raised as they come."""

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, numbers in them in the order of numbers (cooling_device2 before cooling_device10)."""

    def run(self, argv: Sequence[str], timeout_s: float = 1.0) -> bytes:
        """What a command printed on standard output, whatever its exit status.

        Raises ENOENT where it is not installed, ETIMEDOUT beyond its time, EACCES where it may not be executed.
        """

    def stream(self, argv: Sequence[str]) -> Stream:
        """A command that goes on. Raises as `run` does."""

    def ioctl(self, path: str, request: int, buffer: bytearray) -> None:
        """An ioctl on a device file that changes `buffer` in place."""

    def close(self) -> None:
        """Give back every held descriptor."""
