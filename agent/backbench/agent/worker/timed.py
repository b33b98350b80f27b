"""A timed launch: warm-up, the loop's own cost, the gate, the window, and what is reported of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from backbench.agent.backends.base import DeviceTimed
from backbench.agent.worker import outputs
from backbench.agent.worker.counters import QuietWindow
from backbench.agent.worker.idle import idle_loop
from backbench.agent.worker.loop import Window, Work, closed_loop
from backbench.agent.worker.memory import lack_of_memory, read_memory
from backbench.agent.worker.overhead import loop_overhead
from backbench.agent.worker.pacing import lower_timer_slack
from backbench.agent.worker.postprocess import postprocess_named
from backbench.agent.worker.queued import Queue, queued_loop
from backbench.agent.worker.schedule import due_offsets_ns, longest_gap_ns
from backbench.agent.worker.table import COLUMNS, WIDTH, FrameTable, row_offset
from backbench.domain.frame import FrameTag

if TYPE_CHECKING:
    from backbench.agent.backends.base import Engine
    from backbench.agent.worker.inputs import Inputs
    from backbench.agent.worker.job import Job
    from backbench.agent.worker.reporting import Reporter

_PART_ROWS = 65_536
"""Rows are prepared so many at a time where a frame follows the one before it: 7 MB, some 10 ms between two frames.

A schedule's rows are all prepared before it begins.
"""


class AgentGone(Exception):
    """Nobody is there any more who would want the frames."""


class TimedLaunch:
    """The timed work of one worker; `commands` is where the line comes from that opens the gate."""

    def __init__(self, job: Job, engine: Engine, inputs: Inputs, reporter: Reporter, commands: TextIO) -> None:
        if job.table_descriptor is None:
            raise ValueError("a timed job needs a frame table")
        self._job = job
        self._engine = engine
        self._inputs = inputs
        self._reporter = reporter
        self._commands = commands
        self._frame_error: str | None = None
        self._work = work_of(job, engine, inputs, self._failed)
        self._offsets = None if job.arrivals in ("closed-loop", "idle") else due_offsets_ns(job)
        self._table = FrameTable(job.table_descriptor, job.warmup_frame_count + job.frame_count)

    def perform(self) -> dict[str, Any]:
        """Warm up, wait for the gate, measure; returns the fields of the report.

        Raises AgentGone when the gate's other side is, WorkerFailure for what cannot be used, and whatever says that
        memory ran out.
        """
        job, table = self._job, self._table
        # One that cannot be used is found out before the window, and its frames are run after it.
        reference = outputs.opened_reference(job)
        table.prepare(0, job.warmup_frame_count, FrameTag.WARM_UP.value, self._inputs.count)
        self._prepare(job.warmup_frame_count, self._rows_at_first())
        lower_timer_slack()
        with QuietWindow() as quiet:
            with self._reporter.phase("warmup"):
                closed_loop(Window(0, job.warmup_frame_count), table, self._work)
            overhead = loop_overhead()
            if pause_ns := self._longest_pause_ns():
                self._reporter.send("pause", longest_ns=pause_ns)
            if job.gated:
                self._wait_for_the_gate()
            self._reporter.begin("measure")
            quiet.begin()
            offered = self._measure()
        held = {"peak_resident_bytes": peak} if (peak := read_memory().get("VmHWM")) is not None else {}
        start_ns, end_ns = _bounds(table, job.warmup_frame_count)
        checks: list[dict[str, Any]] = []
        if reference is not None:
            tell = partial(self._reporter.begin, "outputs")
            checks = outputs.output_checks(reference, job, self._engine, self._inputs.slots[0], tell)
        return {
            "counters": {**quiet.counters, **overhead, **held, "offered_frame_count": offered},
            "window_start_ns": start_ns,
            "window_end_ns": end_ns,
            "output_checks": checks,
            "frame_error": self._frame_error,
        }

    def _measure(self) -> int:
        """Run the window's frames; how many arrived, whatever became of them."""
        job, first = self._job, self._job.warmup_frame_count
        if self._offsets is not None:
            window = Window(first, len(self._offsets))
            queued_loop(window, self._offsets, Queue(job.queue_policy, job.queue_depth), self._table, self._work)
            return window.count
        until_ns = None if job.duration_ns is None else time.perf_counter_ns() + job.duration_ns
        end, count = first + job.frame_count, self._rows_at_first()
        while (begun := self._back_to_back(Window(first, count), until_ns)) == count and first + count < end:
            first += count
            count = min(count, end - first)
            self._prepare(first, count)
        return first + begun - job.warmup_frame_count

    def _back_to_back(self, window: Window, until_ns: int | None) -> int:
        if self._job.arrivals == "idle":
            return idle_loop(window, self._job.idle_gap_ns, self._table, self._work, until_ns)
        return closed_loop(window, self._table, self._work, until_ns)

    def _rows_at_first(self) -> int:
        return min(self._job.frame_count, _PART_ROWS) if self._offsets is None else len(self._offsets)

    def _longest_pause_ns(self) -> int:
        """How long no frame may be due; the agent must not take that for a worker that hangs."""
        if self._offsets is None:
            return self._job.idle_gap_ns if self._job.arrivals == "idle" else 0
        return longest_gap_ns(self._offsets)

    def _prepare(self, first: int, count: int) -> None:
        self._table.prepare(first, count, 0, self._inputs.count)

    def _wait_for_the_gate(self) -> None:
        self._reporter.begin("ready")
        if not self._commands.readline():
            raise AgentGone

    def _failed(self, error: Exception) -> None:
        """Keep the words of the first frame that failed. Without memory there is no use in going on."""
        if lack_of_memory(error) is not None:
            raise error
        if self._frame_error is None:
            self._frame_error = " ".join(str(error).split())[:300]


def work_of(job: Job, engine: Engine, inputs: Inputs, failed: Callable[[Exception], None]) -> Work:
    """What a frame of this job is. The engine must have run once. Raises WorkerFailure as `postprocess_named` does."""
    work = Work(inputs.fill, engine.infer, inputs.timed, postprocess_named(job.postprocess, engine), failed=failed)
    return replace(work, spans=engine.spans) if isinstance(engine, DeviceTimed) else work


def _bounds(table: FrameTable, first: int) -> tuple[int | None, int | None]:
    """From the first timed frame's arrival to the last moment that a frame has: done, or due where none was done."""
    last = table.written
    if last <= first:
        return None, None
    start, end = row_offset(first), row_offset(last)
    due, done = (table.words[start + COLUMNS.index(name) : end : WIDTH] for name in ("due_ns", "done_ns"))
    last_done = max(done)  # not unpacked: there may be two million
    return due[0], max(last_done, due[-1])
