"""Frames in memory that the worker writes and the agent reads: they survive the worker, and a row costs no syscall.

The agent makes an anonymous memory file and passes its descriptor on. A row is `len(COLUMNS)` int64. The first word of
the header is a number of rows: every row below it is final. Rows may become final in any order (a frame that finds the
queue full is resolved before those that wait in it), so the worker raises that number only over rows without a gap,
and only after a frame was served. While the worker lives the agent stays one row behind it, so that a processor with
weak store ordering cannot show it half a row: a whole frame, with its locks and system calls, lies in between.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from array import array

COLUMNS = (
    "index", "due_ns", "seen_ns", "dequeued_ns", "done_ns", "preprocess_ns", "host_to_device_ns", "compute_ns",
    "device_to_host_ns", "postprocess_ns", "outcome", "tags", "input",
)  # fmt: skip
_HEADER_WORDS = 512  # one page
_PART_ROWS = 4096  # prepared at a time, so that it takes no memory of its own to speak of
WIDTH = len(COLUMNS)
NOT_REACHED = -1
PENDING = 0
"""The outcome of a frame that has none yet."""


def create(rows: int) -> int:
    """A descriptor of a zeroed table for that many rows. Raises OSError when there is too little memory.

    Nobody can make it shorter or longer: a worker that did would take the agent with it, which reads it (SIGBUS).
    """
    descriptor = os.memfd_create("backbench-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, (_HEADER_WORDS + rows * WIDTH) * 8)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class FrameTable:
    """One side's view of a table."""

    def __init__(self, descriptor: int, rows: int) -> None:
        self.rows = rows
        self._map = mmap.mmap(descriptor, (_HEADER_WORDS + rows * WIDTH) * 8)
        self.words = memoryview(self._map).cast("q")

    def prepare(self, first: int, count: int, tags: int = 0, input_count: int = 1) -> None:
        """Fill rows with what is known beforehand: index, tags, input; pending, and no time reached.

        It writes every word of these rows and of no others, so that no frame pays for a page fault, and a window that
        ends early for no memory that it does not use. About 0.2 us a row.
        """
        self.words[0] = self.words[0]
        for part in range(first, first + count, _PART_ROWS):
            self._prepare(range(part, min(part + _PART_ROWS, first + count)), tags, input_count)

    @property
    def written(self) -> int:
        """Every row below this is final. Whatever a worker that is not itself any more has put there, it is a row's."""
        return min(max(self.words[0], 0), self.rows)

    def columns(self, first: int, last: int) -> dict[str, tuple[int, ...]]:
        """The rows from first up to, not including, last: one tuple a column."""
        start, end = row_offset(first), row_offset(last)
        return {name: tuple(self.words[start + place : end : WIDTH]) for place, name in enumerate(COLUMNS)}

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self._map.close()

    def _prepare(self, rows: range, tags: int, input_count: int) -> None:
        start, end = row_offset(rows.start), row_offset(rows.stop)
        row = array("q", (NOT_REACHED if name.endswith("_ns") else 0 for name in COLUMNS))
        row[COLUMNS.index("tags")] = tags
        self.words[start:end] = memoryview(row * len(rows))
        self.words[start + COLUMNS.index("index") : end : WIDTH] = memoryview(array("q", rows))
        inputs = array("q", (frame % input_count for frame in rows))
        self.words[start + COLUMNS.index("input") : end : WIDTH] = memoryview(inputs)


def row_offset(row: int) -> int:
    """Where a row starts in `FrameTable.words`; its columns follow in the order of `COLUMNS`."""
    return _HEADER_WORDS + row * WIDTH
