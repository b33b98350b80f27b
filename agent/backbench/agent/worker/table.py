"""Frames in memory that the worker writes and the agent reads: they survive the worker, and a row costs no syscall.

The agent makes an anonymous memory file and passes its descriptor on. A row is `len(COLUMNS)` int64; the header holds
the number of rows written, which the worker raises after a row is complete. While the worker lives the agent stays one
row behind that number, so that a processor with weak store ordering cannot show it half a row: a whole frame, with its
locks and system calls, lies in between.
"""

from __future__ import annotations

import mmap
import os

COLUMNS = ("index", "due_ns", "dequeued_ns", "done_ns", "preprocess_ns", "compute_ns", "outcome", "tags", "input")
_HEADER_WORDS = 512  # one page
WIDTH = len(COLUMNS)
NOT_REACHED = -1


def create(rows: int) -> int:
    """A descriptor of a zeroed table for that many rows. Raises OSError when there is too little memory."""
    descriptor = os.memfd_create("backbench-frames")
    os.ftruncate(descriptor, (_HEADER_WORDS + rows * WIDTH) * 8)
    return descriptor


class FrameTable:
    """One side's view of a table."""

    def __init__(self, descriptor: int, rows: int) -> None:
        self.rows = rows
        self._map = mmap.mmap(descriptor, (_HEADER_WORDS + rows * WIDTH) * 8)
        self.words = memoryview(self._map).cast("q")

    def touch(self) -> None:
        """Write to every page, so that no frame pays for a page fault."""
        for word in range(0, len(self.words), mmap.PAGESIZE // 8):
            self.words[word] = 0

    @property
    def written(self) -> int:
        """Complete rows."""
        return self.words[0]

    def columns(self, first: int, last: int) -> dict[str, tuple[int, ...]]:
        """The rows from first up to, not including, last: one tuple a column."""
        start, end = _HEADER_WORDS + first * WIDTH, _HEADER_WORDS + last * WIDTH
        return {name: tuple(self.words[start + place : end : WIDTH]) for place, name in enumerate(COLUMNS)}

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self._map.close()


def row_offset(row: int) -> int:
    """Where a row starts in `FrameTable.words`."""
    return _HEADER_WORDS + row * WIDTH
