"""What an operation tells while it works."""

from __future__ import annotations

from backbench.domain.errors import BackbenchError
from backbench.domain.event import RunEvent
from backbench.domain.run import RunSpec


class Observer:
    """Is told, and says nothing; those who show something override what they show."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def step(self, text: str) -> None:
        """A step of something long has begun; an empty text says that all of it is done."""

    def pushing(self, name: str, done_bytes: int, size_bytes: int) -> None:
        """A file is on its way; called from a thread of its own."""

    def started(self, spec: RunSpec, place: int, count: int) -> None:
        """A run was handed to the device: the `place`th of `count`, from 1."""

    def happened(self, event: RunEvent) -> None:
        """The next event of the run."""

    def cut(self, error: BackbenchError) -> None:
        """The connection is lost and is being made again."""

    def ended(self) -> None:
        """The run is over."""
