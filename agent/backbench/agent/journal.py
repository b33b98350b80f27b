"""A run's journal: its events in checksummed segment files, numbered without a gap."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from backbench.wire.records import Ending, RecordWriter, read_records, sync_folder

SEGMENT_BYTES = 4 << 20
BATCH_BYTES = 64 << 10
"""A reader holds about so much of a journal in memory, however far it is behind."""
_SEGMENT = re.compile(r"events-(\d{12})\.seg")


class Journal:
    """Appends events of one run to `folder/events-N.seg`, where N is the first sequence number in the segment.

    A context manager; a new segment begins once one has more than `segment_bytes`. One that is there already is cut
    behind the last event that can be read and that `accept` takes; `damage` then says what was wrong, unless that was
    only an event not wholly written. `sync` may be called in another thread.
    """

    def __init__(
        self, folder: Path, segment_bytes: int = SEGMENT_BYTES, accept: Callable[[bytes], bool] = lambda _: True
    ) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._swap = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.damage = _cut(folder, accept)
        segments = _segments(folder)
        first, path = segments[-1] if segments else (1, folder / _name(1))
        self._writer = RecordWriter(path, after=first - 1)

    @property
    def last_sequence(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._writer.last_sequence

    def append(self, payload: bytes) -> int:
        """Write the next event; returns its number. It can be read at once, and is on the disk after `sync`.

        Raises OSError when the disk does not take it; the journal is then as it was before.
        """
        if self._writer.size_bytes > self._segment_bytes:
            self.begin_segment()
        sequence = self._writer.last_sequence + 1
        self._writer.append(sequence, payload)
        return sequence

    def begin_segment(self) -> None:
        """Go on in a new file."""
        if self._writer.size_bytes == 0:
            return
        last = self._writer.last_sequence
        self.sync()  # else a power cut could leave the new file behind a gap
        following = RecordWriter(self._folder / _name(last + 1), after=last)
        with self._swap:
            before, self._writer = self._writer, following
            before.close()

    def sync(self) -> None:
        """Put everything onto the disk."""
        with self._swap:
            self._writer.sync()

    def close(self) -> None:
        """Sync and close."""
        with self._swap:
            self._writer.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JournalReader:
    """Reads a run's events in order; call `read` again for those that have come since.

    No file stays open between the calls.
    """

    def __init__(self, folder: Path, from_sequence: int = 1) -> None:
        self._folder = folder
        self._wanted = max(1, from_sequence)
        begun = [(first, path) for first, path in _segments(folder) if first <= self._wanted]
        self._next, self._segment = begun[-1] if begun else (1, folder / _name(1))
        self._offset = 0

    @property
    def next_sequence(self) -> int:
        """Number of the event that is due."""
        return max(self._wanted, self._next)

    def read(self, last: int | None = None) -> list[tuple[int, bytes]]:
        """The next events as (sequence, payload), about BATCH_BYTES of them, none behind number `last`.

        Empty at the end, and where the next event is missing or damaged. Raises OSError when the disk does.
        """
        events: list[tuple[int, bytes]] = []
        try:
            self._read_into(events, last)
        except OSError:
            if not events:
                raise
        return events

    def _read_into(self, events: list[tuple[int, bytes]], last: int | None) -> None:
        size = 0
        while True:
            for sequence, payload, offset in read_records(self._segment, self._next, self._offset, self._next):
                if last is not None and sequence > last:
                    return
                self._next, self._offset = sequence + 1, offset
                if sequence >= self._wanted:
                    events.append((sequence, payload))
                    size += len(payload)
                if size >= BATCH_BYTES:
                    return
            following = self._folder / _name(self._next)
            if following == self._segment or not following.exists():
                return
            self._segment, self._offset = following, 0


def last_event(folder: Path) -> bytes | None:
    """The newest event that can be read without what lies before its segment; None when there is none."""
    payload = None
    for first, path in _segments(folder)[-1:]:
        for _, payload, _ in read_records(path, expected=first):  # noqa: B007
            pass
    return payload


def _cut(folder: Path, accept: Callable[[bytes], bool]) -> str:
    """Take everything behind the first gap or damage out of the journal, into `*.damaged`; says what was wrong."""
    due, damage = 1, ""
    for first, path in _segments(folder):
        if damage or first != due:
            if first > due:  # otherwise it is a copy of what is there already
                damage = damage or f"event {due} is missing"
            path.replace(path.with_suffix(".damaged"))
            continue
        end, due, ending = _readable(path, first, accept)
        if ending is Ending.DAMAGED:
            _move_tail(path, end)
            if due == first or not (folder / _name(due)).exists():
                damage = f"event {due} is damaged"
    return damage


def _readable(path: Path, first: int, accept: Callable[[bytes], bool]) -> tuple[int, int, Ending]:
    """Where the good part of a segment ends, the number that is due there, and what lies behind it."""
    end, due = 0, first
    records = read_records(path, expected=first)
    while True:
        try:
            sequence, payload, offset = next(records)
        except StopIteration as stopped:
            return end, due, stopped.value
        except OSError:
            return end, due, Ending.DAMAGED
        if not accept(payload):
            return end, due, Ending.DAMAGED
        end, due = offset, sequence + 1


def _move_tail(path: Path, end: int) -> None:
    aside = path.with_suffix(".damaged")
    try:
        with open(path, "r+b") as file:  # noqa: PTH123 - an open file is truncated
            with contextlib.suppress(OSError):  # no room for what is of no use: the good part matters more
                file.seek(end)
                aside.write_bytes(file.read())
            file.truncate(end)
            os.fsync(file.fileno())
    except IsADirectoryError:
        path.replace(aside)
    sync_folder(path.parent)


def _name(first: int) -> str:
    return f"events-{first:012d}.seg"


def _segments(folder: Path) -> list[tuple[int, Path]]:
    try:
        found = [(_SEGMENT.fullmatch(path.name), path) for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((int(match[1]), path) for match, path in found if match)
