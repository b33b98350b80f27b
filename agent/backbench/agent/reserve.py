"""A little room on the disk, held for what must be written when there is no other left."""

from __future__ import annotations

import os
from pathlib import Path

RESERVE_BYTES = 1 << 20


class Reserve:
    """A file whose blocks are taken already; `release` gives them back, `fill` takes them again."""

    def __init__(self, path: Path, size_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def fill(self) -> bool:
        """Take the room, if it is there; tells whether it is held."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_size != self._size_bytes:
                    os.posix_fallocate(descriptor, 0, self._size_bytes)
            finally:
                os.close(descriptor)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> bool:
        """Give the room back; tells whether any was held."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
