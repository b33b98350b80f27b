"""The artifact store: files named by SHA-256, visible only once they are whole and right, within a quota."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from backbench.agent.eviction import Droppable, enough_of
from backbench.domain.artifact import Artifact, ArtifactKind, is_sha256
from backbench.domain.errors import (
    ArtifactNotFound,
    DigestMismatch,
    DiskFull,
    InvalidArgument,
    MessageTooLarge,
    UploadOutOfStep,
)
from backbench.models.whole_file import sync_folder, written_whole
from backbench.wire.digest import CHUNK_BYTES

log = logging.getLogger(__name__)

_RESERVE_BYTES = 64 << 20
_LARGEST_QUOTA = 16 << 30
_LONGEST_NAME = 1024
_ABANDONED_NS = 7 * 24 * 3600 * 10**9
"""An upload with which nobody has gone on for so long is the first to be dropped."""


def default_quota(root: Path) -> int:
    """Room for artifacts where nobody says how much: half of the disk, at most 16 GiB."""
    at = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return min(_LARGEST_QUOTA, shutil.disk_usage(at).total // 2)


class ArtifactStore:
    """Artifacts in `root/artifacts`, unfinished uploads in `root/uploads`; together at most `quota_bytes`.

    Where room is needed those go first that no run has used for longest, but none of which `in_use` is true, and no
    upload that is in progress. When an artifact was used last is the time of its description.
    """

    def __init__(
        self,
        root: Path,
        limit_bytes: int,
        quota_bytes: int | None = None,
        in_use: Callable[[str], bool] | None = None,
    ) -> None:
        self._artifacts = root / "artifacts"
        self._uploads = root / "uploads"
        self._root = root
        for folder in (self._artifacts, self._uploads):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.quota_bytes = default_quota(root) if quota_bytes is None else quota_bytes
        self._limit_bytes = min(limit_bytes, self.quota_bytes)
        self._in_use = in_use or (lambda _: False)
        self._progressing: dict[str, list[Upload]] = {}
        self.appending = threading.Lock()
        """Held while bytes are appended to an upload and while one becomes visible: never both at once."""
        self._clear()

    def path(self, sha256: str) -> Path:
        """The file of an artifact. Raises ArtifactNotFound."""
        path = self._artifacts / _checked(sha256)
        if not path.is_file():
            raise ArtifactNotFound(f"the agent holds no artifact {sha256[:12]}; push it first", sha256=sha256)
        return path

    def holds(self, sha256: str) -> bool:
        """Whether an artifact is there, whole."""
        return (self._artifacts / _checked(sha256)).is_file()

    def missing(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Those of the digests that are not held, in order, each once. The others count as used now: a run follows."""
        wanted = {sha256: self.holds(sha256) for sha256 in digests}
        self.use(sha256 for sha256, held in wanted.items() if held)
        return tuple(sha256 for sha256, held in wanted.items() if not held)

    def use(self, digests: Iterable[str]) -> None:
        """Keep that these artifacts are used now."""
        for sha256 in digests:
            with contextlib.suppress(OSError):
                os.utime(self._description(sha256))

    def committed(self, sha256: str) -> tuple[int, bool]:
        """Bytes stored of an upload, and whether the artifact is complete."""
        _checked(sha256)
        whole = self._artifacts / sha256
        # The third look is for an upload that becomes whole between the first two.
        for path, complete in ((whole, True), (self._uploads / sha256, False), (whole, True)):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_size, complete
        return 0, False

    def begin(self, sha256: str, size_bytes: int, kind: ArtifactKind, name: str) -> Upload:
        """Go on with an upload, or start it; to be closed. Makes room for it, and raises when it cannot fit."""
        _checked(sha256)
        if len(name) > _LONGEST_NAME:
            raise InvalidArgument(f"the name {name[:40]!a}... has {len(name)} characters; give at most {_LONGEST_NAME}")
        if not 0 < size_bytes <= self._limit_bytes:
            raise MessageTooLarge(
                f"artifact {name or sha256[:12]} has {size_bytes} bytes; this agent takes 1 to {self._limit_bytes},"
                " or more with a larger --artifact-quota"
            )
        upload = Upload(self, sha256, size_bytes, kind, name)
        if not self.holds(sha256):
            self._make_room(upload)
        self._progressing.setdefault(sha256, []).append(upload)
        return upload

    def ended(self, upload: Upload) -> None:
        """Nobody goes on with an upload any more; what it has stays."""
        with contextlib.suppress(KeyError, ValueError):
            self._progressing[upload.sha256].remove(upload)
            if not self._progressing[upload.sha256]:
                del self._progressing[upload.sha256]

    def free_bytes(self) -> int:
        """Room on the disk for artifacts, less a reserve for the system."""
        return max(0, shutil.disk_usage(self._root).free - _RESERVE_BYTES)

    def used_bytes(self) -> int:
        """What artifacts and unfinished uploads take."""
        return sum(size for _, size in (*_files(self._artifacts), *_files(self._uploads)))

    def list(self) -> tuple[Artifact, ...]:
        """Everything held, newest first."""
        found = [self._artifact(path, size) for path, size in _files(self._artifacts)]
        return tuple(sorted(found, key=lambda artifact: artifact.created_unix_ns, reverse=True))

    def delete(self, sha256: str) -> None:
        """Remove an artifact. Raises ArtifactNotFound."""
        self.path(sha256).unlink()
        self._description(sha256).unlink(missing_ok=True)

    def upload_path(self, sha256: str) -> Path:
        """The unfinished file of an upload."""
        return self._uploads / sha256

    def publish(self, upload: Upload) -> None:
        """Make a verified upload visible: its description first, then the file, by renaming.

        What another upload, which announced more, has appended meanwhile is cut off.
        """
        with written_whole(self._description(upload.sha256), mode=0o600) as file:
            known = {"kind": upload.kind.value, "name": upload.name, "created": time.time_ns()}
            file.write(json.dumps(known).encode())
        path = self.upload_path(upload.sha256)
        try:
            with self.appending:
                os.truncate(path, upload.size_bytes)
                path.replace(self._artifacts / upload.sha256)
        except FileNotFoundError:
            if not self.holds(upload.sha256):  # else another upload of the same bytes was a moment faster
                raise
        sync_folder(self._artifacts)

    def _make_room(self, upload: Upload) -> None:
        """Drop what is needed for an upload, and nothing where that is not enough. Raises DiskFull."""
        coming = upload.size_bytes - self.committed(upload.sha256)[0]
        promised = sum(
            max(0, others[0].size_bytes - self.committed(sha256)[0])
            for sha256, others in self._progressing.items()
            if sha256 != upload.sha256
        )
        used, free = self.used_bytes(), self.free_bytes()
        excess = coming + promised - min(self.quota_bytes - used, free)
        if excess <= 0:
            return
        what = f"{upload.name or upload.sha256[:12]} needs {coming} bytes"
        dropped = enough_of(self._droppable(upload.sha256), excess)
        if dropped is None and free < coming + promised:
            raise DiskFull(f"{what} and the device has {free} free; delete files or runs on it")
        if dropped is None:
            raise DiskFull(
                f"{what}; of the {self.quota_bytes} for artifacts {used} are taken, by runs that have not ended and"
                " uploads: wait for them, or start the agent with a larger --artifact-quota"
            )
        for each in dropped:
            log.info("dropping %s, %d bytes, to make room", each.path.name[:12], each.size_bytes)
            each.path.unlink(missing_ok=True)
            if each.path.parent == self._artifacts:
                self._description(each.path.name).unlink(missing_ok=True)

    def _droppable(self, wanted: str) -> Iterator[Droppable]:
        for path, size in _files(self._artifacts):
            if path.name != wanted and not self._in_use(path.name):
                used = self._description(path.name)
                yield Droppable(path, size, (used if used.exists() else path).stat().st_mtime_ns)
        abandoned_ns = time.time_ns() - _ABANDONED_NS
        for path, size in _files(self._uploads):
            if path.name != wanted and path.name not in self._progressing:
                touched_ns = path.stat().st_mtime_ns
                yield Droppable(path, size, touched_ns, abandoned=touched_ns < abandoned_ns)

    def _description(self, sha256: str) -> Path:
        return self._artifacts / f"{sha256}.json"

    def _clear(self) -> None:
        """Remove what an agent that was killed in the middle of something left: nothing of it is visible."""
        for path in self._artifacts.iterdir():
            if not is_sha256(path.name) and not (path.suffix == ".json" and (self._artifacts / path.stem).exists()):
                path.unlink(missing_ok=True)
        for path, size in list(_files(self._uploads)):
            if size == 0:
                path.unlink(missing_ok=True)

    def _artifact(self, path: Path, size_bytes: int) -> Artifact:
        try:
            known = json.loads(self._description(path.name).read_text())
            kind, name, created = ArtifactKind(known["kind"]), str(known["name"]), int(known["created"])
        except (OSError, ValueError, KeyError, TypeError):
            kind, name, created = ArtifactKind.MODEL, "", path.stat().st_mtime_ns
        return Artifact(path.name, size_bytes, kind, name, created)


class Upload:
    """One upload in progress. What was written stays when the caller goes away, and the next one goes on from there.

    Several of the same artifact may go on at once: whichever has the next chunk goes on, and when one is done, all are.
    """

    def __init__(self, store: ArtifactStore, sha256: str, size_bytes: int, kind: ArtifactKind, name: str) -> None:
        self._store = store
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self.kind = kind
        self.name = name
        self._path = store.upload_path(sha256)
        self._digest = hashlib.sha256()
        self._hashed_bytes = 0

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.ended(self)

    def catch_up(self) -> None:
        """Hash what an earlier attempt has stored. That takes seconds for a large one: not for an event loop.

        Bytes beyond the announced size are none of this artifact's, whoever left them there.
        """
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._hashed_bytes)
            while block := file.read(min(CHUNK_BYTES, self.size_bytes - self._hashed_bytes)):
                self._digest.update(block)
                self._hashed_bytes += len(block)

    def write(self, offset: int, data: bytes) -> int:
        """Append a chunk that starts at the committed offset; returns the new offset."""
        with self._store.appending:
            return self._append(offset, data)

    def _append(self, offset: int, data: bytes) -> int:
        committed, complete = self._store.committed(self.sha256)
        if complete:  # by another upload
            return offset + len(data)
        if offset != committed:
            raise UploadOutOfStep(
                f"chunk of {self.sha256[:12]} starts at {offset}, {committed} bytes are stored; go on there",
                committed=str(committed),
            )
        if len(data) > CHUNK_BYTES or committed + len(data) > self.size_bytes:
            raise InvalidArgument(f"chunk of {len(data)} bytes at {offset} goes beyond the announced size")
        if self._hashed_bytes != committed:
            self.catch_up()
        try:
            with self._path.open("ab") as file:
                file.write(data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(
                    f"the device's disk is full after {offset} bytes; free some room, or collect its runs"
                ) from error
            raise
        self._digest.update(data)
        self._hashed_bytes += len(data)
        return offset + len(data)

    def finish(self) -> None:
        """Check length and digest and make the artifact visible; on a wrong digest the upload is discarded."""
        committed, complete = self._store.committed(self.sha256)
        if complete:
            return
        if committed < self.size_bytes:
            raise UploadOutOfStep(
                f"{self.name or self.sha256[:12]} ended after {committed} of {self.size_bytes} bytes; go on from there",
                committed=str(committed),
            )
        self.catch_up()
        if self._digest.hexdigest() != self.sha256:
            if self._store.holds(self.sha256):  # another upload of the same bytes was a moment faster
                return
            self._path.unlink(missing_ok=True)
            raise DigestMismatch(f"{self.name or self.sha256[:12]} arrived damaged and was discarded; push it again")
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            os.fsync(file.fileno())
        self._store.publish(self)


def _checked(sha256: str) -> str:
    if not is_sha256(sha256):
        raise InvalidArgument(f'"{sha256[:80]}" is not a SHA-256 of 64 lower-case hex digits')
    return sha256


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """The files that are named by a digest, and their sizes."""
    for path in folder.iterdir():
        if is_sha256(path.name):
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                yield path, path.stat().st_size
