"""Frames as columns."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum, IntFlag


class FrameOutcome(Enum):
    """How a frame ended."""

    COMPLETED = "completed"
    SUPERSEDED = "superseded"
    QUEUE_FULL = "queue_full"
    SHUTDOWN = "shutdown"
    ERRORED = "errored"


DROPPED = (FrameOutcome.SUPERSEDED, FrameOutcome.QUEUE_FULL, FrameOutcome.SHUTDOWN)
"""The ways to end without having been begun."""

OUTCOME_NUMBERS: dict[FrameOutcome, int] = {
    FrameOutcome.COMPLETED: 1,
    FrameOutcome.SUPERSEDED: 2,
    FrameOutcome.QUEUE_FULL: 3,
    FrameOutcome.SHUTDOWN: 4,
    FrameOutcome.ERRORED: 5,
}
"""The numbers of the wire contract's FrameOutcome."""


class FrameTag(IntFlag):
    """What is known of a frame's circumstances. Tagged frames are kept."""

    WARM_UP = 1
    GARBAGE_COLLECTION = 2
    MAJOR_FAULT = 4
    INVOLUNTARY_SWITCH = 8
    THROTTLED = 16


Nanoseconds = tuple[int | None, ...]
"""A column of times: None where the frame did not get that far; an empty column was not measured at all."""


@dataclass(frozen=True, slots=True)
class FrameBlock:
    """Rows of frames of one launch; every column is as long as `index`, or empty when not measured.

    `due_ns`, `seen_ns`, `dequeued_ns` and `done_ns` are times on the device's CLOCK_MONOTONIC, the others lengths.
    """

    launch: int
    index: tuple[int, ...]
    due_ns: Nanoseconds
    dequeued_ns: Nanoseconds
    done_ns: Nanoseconds
    outcome: tuple[int, ...]
    tags: tuple[int, ...]
    input: tuple[int, ...]
    preprocess_ns: Nanoseconds = ()
    host_to_device_ns: Nanoseconds = ()
    compute_ns: Nanoseconds = ()
    device_to_host_ns: Nanoseconds = ()
    postprocess_ns: Nanoseconds = ()
    enqueue_ns: Nanoseconds = ()
    seen_ns: Nanoseconds = ()
    stream: int = 0


NULLABLE_COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(FrameBlock) if f.name.endswith("_ns"))
"""The columns that may hold None or be empty."""
