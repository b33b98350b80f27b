"""Engines that this agent built, kept by everything that they depend on until their room is needed.

An engine is code: only what a build on this device wrote is ever opened, and only as long as its digest is right.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backbench.models.whole_file import sync_folder, written_whole

_FORMAT = "1"
"""Raise it when the same key would be built differently, so that older engines are not taken for new ones."""
_ENGINE, _DESCRIPTION = "engine", "description.json"
_TIMINGS = "timings"
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """An engine that is there, whole: what it depends on, and what was counted when it was built."""

    path: Path
    facts: Mapping[str, str]
    counters: Mapping[str, int]


class NothingBuilt(Exception):
    """A build ended well and left no engine."""


def engine_digest(backend: str, model_sha256: str, depends_on: Mapping[str, str]) -> str:
    """The name of an engine: the SHA-256 of everything that it depends on."""
    parts = {"format": _FORMAT, "backend": backend, "model": model_sha256, "depends_on": dict(depends_on)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    _feed(digest, path)
    return digest.hexdigest()


class EngineCache:
    """Engines in a folder, each in one of its own; at most `limit_bytes`, the longest unused go first, none in use.

    Builds are processes of their own, which `find` and `add`; everything else is the agent's alone.
    """

    def __init__(self, folder: Path, limit_bytes: int = 4 << 30) -> None:
        self.folder = folder
        self.timings = folder / _TIMINGS
        """What makes builds faster: backends keep there what they like."""
        self._limit_bytes = limit_bytes
        self._held: Counter[Path] = Counter()
        self.timings.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove what builds left that were killed; before the first one begins."""
        for part in self.folder.glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)

    @contextlib.contextmanager
    def part(self) -> Iterator[Path]:
        """A folder for one build, which is gone after the block unless `add` made an engine of it."""
        path = self.folder / f".{secrets.token_hex(8)}.part"
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def find(self, digest: str) -> Entry | None:
        """The engine of that name, used now; None where there is none. One that is damaged is removed."""
        entry = self.folder / digest
        if not entry.exists():
            return None
        try:
            described = json.loads((entry / _DESCRIPTION).read_text(encoding="utf-8"))
            found = Entry(entry / _ENGINE, dict(described["facts"]), dict(described["counters"]))
            whole = described["sha256"] == _content(found.path)[1]
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self._remove(entry)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)
        return found

    def add(
        self, digest: str, part: Path, facts: Mapping[str, str], build: Callable[[Path], Mapping[str, int]]
    ) -> Entry:
        """Let `build` write an engine into a folder of `part`, and make that visible as a whole.

        Where another build was first, its engine is the one. Raises NothingBuilt, whatever `build` raises, and OSError,
        DiskFull or StoreUnusable where the disk does not take it.
        """
        path = part / _ENGINE
        counters = dict(build(path))
        if not path.exists():
            raise NothingBuilt
        size_bytes, sha256 = _content(path)
        counters["engine_bytes"] = size_bytes
        described: dict[str, Any] = {"sha256": sha256, "facts": dict(facts), "counters": counters}
        with written_whole(part / _DESCRIPTION, 0o600) as file:
            file.write(json.dumps(described).encode())
        _sync(part)
        entry = self.folder / digest
        try:
            part.rename(entry)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if (first := self.find(digest)) is not None:
                return first
            part.rename(entry)
        sync_folder(self.folder)
        return Entry(entry / _ENGINE, dict(facts), counters)

    @contextlib.contextmanager
    def held(self, path: Path) -> Iterator[None]:
        """Keep an engine for as long as the block lasts; then remove engines above the limit."""
        entry = path.parent
        self._held[entry] += 1
        try:
            yield
        finally:
            self._held[entry] -= 1
            self._trim()

    def _trim(self) -> None:
        """Remove the longest unused engines above the limit, but none that is held."""
        entries = [
            path
            for path in self.folder.iterdir()
            if path.is_dir() and path != self.timings and not path.name.startswith(".")
        ]
        newest = sorted(entries, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        total = 0
        for entry in sorted(newest, key=lambda path: not self._held[path]):
            total += sum(file.stat().st_size for file in _files(entry))
            if total > self._limit_bytes and not self._held[entry]:
                self._remove(entry)

    def _remove(self, entry: Path) -> None:
        """All of it or nothing, whatever happens meanwhile."""
        grave = self.folder / f".{secrets.token_hex(8)}.part"
        with contextlib.suppress(FileNotFoundError):
            entry.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)


def entry_fields(entry: Entry) -> dict[str, Any]:
    """An entry as it goes over a pipe; `entry_of` makes it again."""
    return {**asdict(entry), "path": str(entry.path)}


def entry_of(fields: Mapping[str, Any]) -> Entry:
    """The entry of `entry_fields`. Raises KeyError, TypeError or ValueError where they are none."""
    facts = {str(name): str(value) for name, value in dict(fields["facts"]).items()}
    counters = {str(name): int(value) for name, value in dict(fields["counters"]).items()}
    return Entry(Path(fields["path"]), facts, counters)


def _files(path: Path) -> list[Path]:
    """The files of an engine, in an order that is always the same."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _content(path: Path) -> tuple[int, str]:
    """How many bytes an engine has, and a SHA-256 of its files and their names."""
    digest, size_bytes = hashlib.sha256(), 0
    for file in _files(path):
        length = file.stat().st_size
        digest.update(f"{file.relative_to(path)}\n{length}\n".encode())
        _feed(digest, file)
        size_bytes += length
    return size_bytes, digest.hexdigest()


def _feed(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)


def _sync(folder: Path) -> None:
    """Put files and their names onto the disk before a name makes them visible."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
