"""Being asked to stop, by a signal or by another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue


class Stop:
    """Whether a stop was asked for, and what is then to be done.

    `request` may be called from a signal handler: it takes no lock and starts no thread, as the interrupted code could
    be in the middle of doing either. The action runs in a thread that waits for it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._asked: SimpleQueue[bool] | None = None

    def request(self) -> bool:
        """Start the action; False when there is none to start or it was started already: then leave at once."""
        if self.requested or self._asked is None:
            return False
        self.requested = True
        self._asked.put(True)
        return True

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """While the block runs, a request starts `action`."""
        asked: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=_act, args=(asked, action), name="stop", daemon=True).start()
        self._asked = asked
        try:
            yield
        finally:
            self._asked = None
            asked.put(False)

    def again(self) -> None:
        """Start the action once more, if it was asked for before it could have had an effect."""
        if self.requested and self._asked is not None:
            self._asked.put(True)


def _act(asked: SimpleQueue[bool], action: Callable[[], None]) -> None:
    while asked.get():
        action()
