"""Writing a file so that it is whole when it appears."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backbench.domain.errors import BackbenchError, DiskFull, StoreUnusable


@contextlib.contextmanager
def written_whole(destination: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that appears at `destination` when the block ends well, and not at all otherwise.

    `mode` less the process's umask is what it may be used for, from its first byte on.

    A process that is killed leaves at most a file called `.NAME.XXXXXXXX.part` in the same folder.
    """
    part = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(destination)
        sync_folder(destination.parent)
    except OSError as error:
        raise _unwritable(destination, error) from error
    finally:
        part.unlink(missing_ok=True)


def clear_parts(folder: Path) -> None:
    """Remove what killed processes left of files in a folder; for whoever alone writes there."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder onto the disk: else what was replaced or removed is back after a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(destination: Path, error: OSError) -> BackbenchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{destination}: the disk is full; free some room and try again")
    return StoreUnusable(f"{destination}: cannot be written ({error.strerror}); check the folder and its permissions")
