"""SHA-256 of files, and the size of the pieces in which they travel."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = 4 << 20
"""Largest message that either side accepts."""


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes as 64 hex digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()
