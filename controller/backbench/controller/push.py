"""Getting files onto a device: each one once, however often it is pushed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from backbench.controller.client import AgentClient
from backbench.controller.client.uploads import Upload
from backbench.wire.digest import sha256_of_file

__all__ = ["PushProgress", "Upload", "push"]

PushProgress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that the device has of it, and its size; from a thread of its own."""


def push(client: AgentClient, uploads: Sequence[Upload], progress: PushProgress | None = None) -> tuple[str, ...]:
    """Send the files that the device lacks; returns every file's SHA-256, in order. Raises OSError for a file."""
    digests = tuple(sha256_of_file(upload.path) for upload in uploads)
    missing = set(client.find_missing(digests))
    for upload, sha256 in zip(uploads, digests, strict=True):
        if sha256 not in missing:
            continue
        missing.discard(sha256)
        told = None if progress is None else partial(_tell, progress, upload.name, upload.path.stat().st_size)
        client.upload(upload.path, sha256, upload.kind, upload.name, told)
    return digests


def _tell(progress: PushProgress, name: str, size: int, done: int) -> None:
    progress(name, done, size)
