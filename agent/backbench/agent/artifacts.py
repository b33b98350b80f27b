"""The artifact store: files named by SHA-256, visible only once they are whole and right."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from backbench.domain.artifact import Artifact, ArtifactKind, is_sha256
from backbench.domain.errors import (
    ArtifactNotFound,
    DigestMismatch,
    DiskFull,
    InvalidArgument,
    MessageTooLarge,
    UploadOutOfStep,
)
from backbench.wire.digest import CHUNK_BYTES

_RESERVE_BYTES = 64 << 20


class ArtifactStore:
    """Artifacts in `root/artifacts`, unfinished uploads in `root/uploads`."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._artifacts = root / "artifacts"
        self._uploads = root / "uploads"
        self._root = root
        self._limit_bytes = limit_bytes
        for folder in (self._artifacts, self._uploads):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """The file of an artifact. Raises ArtifactNotFound."""
        path = self._artifacts / _checked(sha256)
        if not path.is_file():
            raise ArtifactNotFound(f"the agent holds no artifact {sha256[:12]}; push it first", sha256=sha256)
        return path

    def missing(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Those of the digests that are not held, in order, each once."""
        wanted = dict.fromkeys(digests)
        return tuple(sha256 for sha256 in wanted if not (self._artifacts / _checked(sha256)).is_file())

    def committed(self, sha256: str) -> tuple[int, bool]:
        """Bytes stored of an upload, and whether the artifact is complete."""
        _checked(sha256)
        try:
            return (self._artifacts / sha256).stat().st_size, True
        except FileNotFoundError:
            pass
        try:
            return (self._uploads / sha256).stat().st_size, False
        except FileNotFoundError:
            return 0, False

    def begin(self, sha256: str, size_bytes: int, kind: ArtifactKind, name: str) -> Upload:
        """Go on with an upload, or start it. Raises when it cannot fit."""
        _checked(sha256)
        if not 0 < size_bytes <= self._limit_bytes:
            raise MessageTooLarge(
                f"artifact {name or sha256[:12]} has {size_bytes} bytes; this agent takes 1 to {self._limit_bytes}"
            )
        committed, _ = self.committed(sha256)
        free = self.free_bytes()
        if size_bytes - committed > free:
            raise DiskFull(
                f"{name or sha256[:12]} needs {size_bytes} bytes and the device has {free} free; delete some"
            )
        return Upload(self, sha256, size_bytes, kind, name)

    def free_bytes(self) -> int:
        """Room for artifacts, less a reserve for the system."""
        return max(0, shutil.disk_usage(self._root).free - _RESERVE_BYTES)

    def list(self) -> tuple[Artifact, ...]:
        """Everything held, newest first."""
        found = [self._artifact(path) for path in self._artifacts.iterdir() if is_sha256(path.name)]
        return tuple(sorted(found, key=lambda artifact: artifact.created_unix_ns, reverse=True))

    def delete(self, sha256: str) -> None:
        """Remove an artifact. Raises ArtifactNotFound."""
        path = self.path(sha256)
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)

    def upload_path(self, sha256: str) -> Path:
        """The unfinished file of an upload."""
        return self._uploads / sha256

    def publish(self, upload: Upload) -> None:
        """Make a verified upload visible: its description first, then the file, by renaming."""
        path = self._artifacts / upload.sha256
        description = path.with_suffix(".json")
        temporary = description.with_suffix(".tmp")
        temporary.write_text(json.dumps({"kind": upload.kind.value, "name": upload.name, "created": time.time_ns()}))
        temporary.replace(description)
        self.upload_path(upload.sha256).replace(path)
        _sync_folder(self._artifacts)

    def _artifact(self, path: Path) -> Artifact:
        stat = path.stat()
        try:
            known = json.loads(path.with_suffix(".json").read_text())
            kind, name, created = ArtifactKind(known["kind"]), str(known["name"]), int(known["created"])
        except (OSError, ValueError, KeyError):
            kind, name, created = ArtifactKind.MODEL, "", stat.st_mtime_ns
        return Artifact(path.name, stat.st_size, kind, name, created)


class Upload:
    """One upload in progress. What was written stays when the caller goes away, and the next one goes on from there."""

    def __init__(self, store: ArtifactStore, sha256: str, size_bytes: int, kind: ArtifactKind, name: str) -> None:
        self._store = store
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self.kind = kind
        self.name = name
        self._path = store.upload_path(sha256)
        # The bytes of an earlier attempt are hashed only when they are gone on with.
        self._digest: hashlib._Hash | None = None

    def write(self, offset: int, data: bytes) -> int:
        """Append a chunk that starts at the committed offset; returns the new offset."""
        try:
            with self._path.open("ab") as file:
                committed = file.tell()
                if offset != committed:
                    raise UploadOutOfStep(
                        f"chunk of {self.sha256[:12]} starts at {offset}, {committed} bytes are stored; go on there",
                        committed=str(committed),
                    )
                if len(data) > CHUNK_BYTES or committed + len(data) > self.size_bytes:
                    raise InvalidArgument(f"chunk of {len(data)} bytes at {offset} goes beyond the announced size")
                if self._digest is None:
                    self._digest = _digest_of(self._path)
                file.write(data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"the device's disk is full after {offset} bytes; delete artifacts or runs") from error
            raise
        self._digest.update(data)
        return offset + len(data)

    def finish(self) -> None:
        """Check length and digest and make the artifact visible; on a wrong digest the upload is discarded."""
        committed, complete = self._store.committed(self.sha256)
        if complete:
            return
        if committed != self.size_bytes:
            raise UploadOutOfStep(
                f"{self.name or self.sha256[:12]} ended after {committed} of {self.size_bytes} bytes; go on from there",
                committed=str(committed),
            )
        digest = self._digest or _digest_of(self._path)
        if digest.hexdigest() != self.sha256:
            self._path.unlink(missing_ok=True)
            raise DigestMismatch(f"{self.name or self.sha256[:12]} arrived damaged and was discarded; push it again")
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        self._store.publish(self)


def _checked(sha256: str) -> str:
    if not is_sha256(sha256):
        raise InvalidArgument(f'"{sha256[:80]}" is not a SHA-256 of 64 lower-case hex digits')
    return sha256


def _digest_of(path: Path) -> hashlib._Hash:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
