"""The timed window, and nothing else: stamps, work, one row into memory. No I/O and no garbage collection in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from backbench.agent.worker.table import COLUMNS, FrameTable, row_offset
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome

_COMPLETED = OUTCOME_NUMBERS[FrameOutcome.COMPLETED]
_ERRORED = OUTCOME_NUMBERS[FrameOutcome.ERRORED]
_DUE, _DEQUEUED, _DONE, _PREPROCESS, _HOST_TO_DEVICE, _COMPUTE, _DEVICE_TO_HOST, _POSTPROCESS, _OUTCOME = (
    COLUMNS.index(name)
    for name in (
        "due_ns", "dequeued_ns", "done_ns", "preprocess_ns", "host_to_device_ns", "compute_ns", "device_to_host_ns",
        "postprocess_ns", "outcome",
    )
)  # fmt: skip
_NEVER_NS = 2**63 - 1

Clock = Callable[[], int]
"""CLOCK_MONOTONIC in nanoseconds."""
Serve = Callable[[int, int, int], int]
"""Serve one frame, given its number, when it was due and when it was taken; returns when it was done."""


@dataclass(frozen=True, slots=True)
class Window:
    """Frames `first` to `first + count` of a launch, written into the table's rows of the same numbers."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a frame is: make its input (`fill` returns the slot), `infer`, and `postprocess` where there is one.

    `timed_fill` says that making the input is a span. `spans` is asked after a frame that was done, outside its time,
    for what the device needed (host to device, compute, device to host); without it compute is the time of `infer`.
    `failed` gets what a frame raised, after its row was written; what it raises itself ends the window.
    """

    fill: Callable[[int], int]
    infer: Callable[[int], None]
    timed_fill: bool = False
    postprocess: Callable[[], object] | None = None
    spans: Callable[[], tuple[int, int, int]] | None = None
    failed: Callable[[Exception], None] | None = None


def server(work: Work, table: FrameTable, now: Clock = time.perf_counter_ns) -> Serve:
    """The function that serves a frame and makes its row final. A frame that raises is errored, with no time done.

    Everything that it touches is a local name or a C call.
    """
    words, fill, infer, postprocess, spans = table.words, work.fill, work.infer, work.postprocess, work.spans
    timed_fill, failed = work.timed_fill, work.failed

    def serve(frame: int, due_ns: int, taken_ns: int) -> int:
        try:
            slot = fill(frame)
            ready = now()
            infer(slot)
            end = inferred = now()
            if postprocess is not None:
                postprocess()
                end = now()
        except Exception as error:  # noqa: BLE001 - a failed frame is data; the run goes on
            end = now()
            at = row_offset(frame)
            words[at + _DUE] = due_ns
            words[at + _DEQUEUED] = taken_ns
            words[at + _OUTCOME] = _ERRORED
            words[0] = frame + 1
            if failed is not None:
                failed(error)
            return end
        at = row_offset(frame)
        words[at + _DUE] = due_ns
        words[at + _DEQUEUED] = taken_ns
        words[at + _DONE] = end
        words[at + _COMPUTE] = inferred - ready
        if timed_fill:
            words[at + _PREPROCESS] = ready - taken_ns
        if postprocess is not None:
            words[at + _POSTPROCESS] = end - inferred
        if spans is not None:
            words[at + _HOST_TO_DEVICE], words[at + _COMPUTE], words[at + _DEVICE_TO_HOST] = spans()
        words[at + _OUTCOME] = _COMPLETED
        words[0] = frame + 1
        return end

    return serve


def closed_loop(
    window: Window, table: FrameTable, work: Work, until_ns: int | None = None, now: Clock = time.perf_counter_ns
) -> int:
    """Run frames back to back, each due when it begins; returns how many began, all of them before `until_ns`.

    The rows must be prepared (`FrameTable.prepare`).
    """
    serve = server(work, table, now)
    last_ns = _NEVER_NS if until_ns is None else until_ns
    for frame in range(window.first, window.first + window.count):
        start = now()
        if start >= last_ns:
            return frame - window.first
        serve(frame, start, start)
    return window.count
