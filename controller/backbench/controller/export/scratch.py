"""A folder for files that only libraries want, gone afterwards."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backbench.domain.errors import DiskFull, StoreUnusable


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder for the time of the block; raises DiskFull or StoreUnusable where there is no room for it."""
    try:
        opened = tempfile.TemporaryDirectory(prefix="backbench-")
    except OSError as error:
        where = tempfile.gettempdir()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{where}: the disk is full; free some room, or set TMPDIR to another folder") from error
        raise StoreUnusable(f"{where}: cannot be used ({error.strerror}); set TMPDIR to another folder") from error
    with opened as folder:
        yield Path(folder)
