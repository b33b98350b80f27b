"""An append-only, checksummed file of numbered records: the form of journals on both sides.

A record is a 20-byte little-endian header (magic, sequence, length, CRC-32 of sequence, length and payload) and its
payload. Sequence numbers run without a gap. A file that was cut in mid-record is read up to its last whole record, and
`RecordWriter` goes on from there.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Generator
from enum import Enum
from pathlib import Path
from types import TracebackType

from backbench.domain.errors import JournalCorrupt, MessageTooLarge

_HEADER = struct.Struct("<IQII")
_MAGIC = 0x5242_4242
MAX_RECORD_BYTES = 64 << 20


class Ending(Enum):
    """What lies behind the last record that could be read."""

    WHOLE = "nothing"
    TORN = "a record that was not wholly written"
    DAMAGED = "bytes that are no record"


def read_records(
    path: Path, from_sequence: int = 1, offset: int = 0, expected: int | None = None
) -> Generator[tuple[int, bytes, int], None, Ending]:
    """Yield (sequence, payload, offset after it) of whole records, in order; stop at a cut, damaged or misplaced one.

    Returns what stopped it. A missing file holds no records. `offset` must be one that this function gave; `expected`
    is the number that the record there must have.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return Ending.WHOLE
    with file:
        file.seek(offset)
        while True:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return Ending.TORN if header else Ending.WHOLE
            magic, sequence, length, checksum = _HEADER.unpack(header)
            if magic != _MAGIC or length > MAX_RECORD_BYTES:
                return Ending.DAMAGED
            payload = file.read(length)
            if len(payload) < length:
                return Ending.TORN
            if _checksum(sequence, payload) != checksum or expected not in (None, sequence):
                return Ending.DAMAGED
            expected = sequence + 1
            offset += _HEADER.size + length
            if sequence >= from_sequence:
                yield sequence, payload, offset


class RecordWriter:
    """Appends records to one file; on opening, cuts off what was not wholly written.

    `after` is the number that an empty file's first record follows.
    """

    def __init__(self, path: Path, after: int = 0) -> None:
        self.path = path
        self.last_sequence = after
        end = 0
        for sequence, _, end in read_records(path, expected=after + 1):  # noqa: B007
            self.last_sequence = sequence
        made = not path.exists()
        # Unbuffered: what a failed write left behind must not reach the file with the next record.
        self._file = open(path, "ab", buffering=0, opener=_for_its_owner)  # noqa: SIM115
        self._file.truncate(end)
        if made:
            sync_folder(path.parent)
        self.size_bytes = end

    def append(self, sequence: int, payload: bytes) -> None:
        """Write one record, wholly or not at all.

        Raises JournalCorrupt for a gap or a repetition in the numbering, MessageTooLarge for a payload that
        `read_records` would refuse, OSError when the disk does; the file then ends with the record before.
        """
        if sequence != self.last_sequence + 1:
            raise JournalCorrupt(f"{self.path.name}: record {sequence} does not follow {self.last_sequence}")
        if len(payload) > MAX_RECORD_BYTES:
            raise MessageTooLarge(f"{self.path.name}: record {sequence} has {len(payload)} bytes of {MAX_RECORD_BYTES}")
        header = _HEADER.pack(_MAGIC, sequence, len(payload), _checksum(sequence, payload))
        rest = memoryview(header + payload)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self.size_bytes)
            raise
        self.size_bytes += len(header) + len(payload)
        self.last_sequence = sequence

    def sync(self) -> None:
        """Put everything written onto the disk; what is closed is there already."""
        if not self._file.closed:
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sync_folder(folder: Path) -> None:
    """Put the names in a folder onto the disk: without that, a power cut can take a whole new file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<QI", sequence, len(payload))))
