"""Files that are whole when they appear."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from backbench.wire.records import sync_folder


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file beside `path`, put it onto the disk, and rename it there; nothing is left if it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        temporary.chmod(0o600)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
