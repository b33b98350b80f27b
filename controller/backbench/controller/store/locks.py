"""Locks that say which runs of a store are being worked on, and which a killed process has left.

A lock is a file that its holder removes. The system lets go of a killed process's lock, but not of its file: that is
how the next command finds what there is to tidy up.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

# Whoever tidies up holds a lock for a moment, which is not to look like somebody at work.
_PATIENCE_S = 1.0


class Lock:
    """A lock of this process; made by `take`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Remove the file and let others in."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def take(path: Path, patience_s: float = _PATIENCE_S) -> Lock | None:
    """The lock; None when another holder keeps it for longer than `patience_s`. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    give_up_s = time.monotonic() + patience_s
    while (lock := _attempt(path)) is None and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return lock


def _attempt(path: Path) -> Lock | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A file that its last holder has removed meanwhile locks nobody out.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return Lock(path, descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
