"""A run's journal: its events in checksummed segment files, numbered without a gap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from backbench.wire.records import RecordWriter, read_records

SEGMENT_BYTES = 4 << 20


class Journal:
    """Appends events of one run to `folder/events-N.seg`, where N is the first sequence number in the segment.

    A context manager; a new segment begins once one has more than `segment_bytes`.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        segments = _segments(folder)
        if not segments:
            self._writer = self._open(1)
            return
        self._writer = RecordWriter(segments[-1][1], after=segments[-1][0] - 1)

    @property
    def last_sequence(self) -> int:
        """Number of the newest event; 0 before the first."""
        return self._writer.last_sequence

    def append(self, payload: bytes) -> int:
        """Write the next event; returns its number. It can be read at once, and is on the disk after `sync`."""
        sequence = self._writer.last_sequence + 1
        if self._writer.size_bytes > self._segment_bytes:
            self._writer.close()
            self._writer = self._open(sequence)
        self._writer.append(sequence, payload)
        return sequence

    def sync(self) -> None:
        """Put everything onto the disk."""
        self._writer.sync()

    def close(self) -> None:
        """Sync and close."""
        self._writer.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, sequence: int) -> RecordWriter:
        return RecordWriter(self._folder / f"events-{sequence:012d}.seg", after=sequence - 1)


class JournalReader:
    """Reads a run's events in order; call `read` again for those that have come since."""

    def __init__(self, folder: Path, from_sequence: int = 1) -> None:
        self._folder = folder
        self._next = max(1, from_sequence)
        self._segment: Path | None = None
        self._offset = 0

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Yield (sequence, payload) of every whole event from the next one on."""
        for path in self._remaining():
            if path != self._segment:
                self._segment, self._offset = path, 0
            for sequence, payload, offset in read_records(path, self._next, self._offset):
                self._next, self._offset = sequence + 1, offset
                yield sequence, payload

    def _remaining(self) -> list[Path]:
        segments = _segments(self._folder)
        begun = [place for place, (first, _) in enumerate(segments) if first <= self._next]
        return [path for _, path in segments[begun[-1] if begun else 0 :]]


def _segments(folder: Path) -> list[tuple[int, Path]]:
    return sorted((int(path.stem.removeprefix("events-")), path) for path in folder.glob("events-*.seg"))
