"""Being asked to stop, by a signal or by another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stop:
    """Whether a stop was asked for, and what is then to be done.

    Safe to call from a signal handler: the action runs in a thread of its own, so that the thread that was interrupted
    is never in the middle of the same thing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._action: Callable[[], None] | None = None

    def request(self) -> bool:
        """Start the action; False when there is none to start or it was started already: then leave at once."""
        if self.requested or self._action is None:
            return False
        self.requested = True
        self._start()
        return True

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """While the block runs, a request starts `action`."""
        self._action = action
        try:
            yield
        finally:
            self._action = None

    def again(self) -> None:
        """Start the action once more, if it was asked for before it could have had an effect."""
        if self.requested:
            self._start()

    def _start(self) -> None:
        if self._action is not None:
            threading.Thread(target=self._action, name="stop", daemon=True).start()
