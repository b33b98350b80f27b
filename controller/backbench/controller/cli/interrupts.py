"""What an interrupt from the keyboard does while a run is going on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backbench.controller.operations.stop import Stop


@contextmanager
def interrupts(stop: Stop) -> Iterator[None]:
    """Within the block the first interrupt asks the run to stop; the second, or one outside a run, leaves at once."""

    def interrupted(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not stop.request():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
