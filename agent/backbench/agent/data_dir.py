"""The agent's data folder: made when it is missing, owned by one agent at a time."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

from backbench.domain.errors import StoreUnusable


class DataDir:
    """A context manager that holds the folder's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> DataDir:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & stat.S_IWOTH:
                # They could put a fleet of their own into it, or a socket at which pairing codes are asked for.
                raise StoreUnusable(
                    f"data folder {self.path} can be written by every user of this device; chmod o-w {self.path}, or"
                    " choose another with --data-dir"
                )
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnusable(
                f"data folder {self.path} cannot be used: {error.strerror}; choose another with --data-dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StoreUnusable(
                f"data folder {self.path} belongs to a running agent; stop it or choose another with --data-dir"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
