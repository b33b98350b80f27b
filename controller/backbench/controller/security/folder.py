"""The folder of keys and certificates: for its owner alone, every file whole, one writer at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backbench.models.whole_file import clear_parts, written_whole


class Folder:
    """A folder of mode 0700 with files of mode 0600; made with the first writing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, whole or not at all."""
        with written_whole(self.path / name, 0o600) as file:
            file.write(data)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For this thread of this process alone, for as long as the block lasts."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        with (self.path / "lock").open("ab") as lock:
            (self.path / "lock").chmod(0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            clear_parts(self.path)
            yield
