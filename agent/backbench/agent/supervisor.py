"""Starts one worker process, takes its frames and events as they come, and says how it ended.

The worker may crash, hang or be killed at any moment: what it had written by then is kept, and the ending becomes a
typed failure with its last lines of standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbench.agent import processes
from backbench.agent.cgroups import Cgroups, Group
from backbench.agent.clocks import Clocks
from backbench.agent.endings import failure_of, not_started, oom_kill_count
from backbench.agent.engines import EngineCache
from backbench.agent.pipes import Tail, last_words, send_line
from backbench.agent.processes import Child
from backbench.agent.sampling.hub import Telemetry
from backbench.agent.worker import table
from backbench.agent.worker.job import Job
from backbench.domain.frame import OUTCOME_NUMBERS, FrameBlock
from backbench.domain.run import SECOND_NS, FailureReason, RunFailure

TICK_S = 0.2
BLOCK_ROWS = 256
FLUSH_NS = SECOND_NS
"""Frames reach the journal at the latest this long after they were measured."""
_WORKER = "backbench.agent.worker"
_OUTCOMES = frozenset(OUTCOME_NUMBERS.values())
_HIGHEST = 2**31 - 1
_SPANS = ("seen_ns", "preprocess_ns", "host_to_device_ns", "compute_ns", "device_to_host_ns", "postprocess_ns")


class Stopped(Exception):
    """The worker was ended because somebody asked for it."""


class _Damaged(Exception):
    """The worker is not itself any more: a library wrote into memory that is not its own."""


@dataclass(frozen=True)
class Watchdog:
    """When a worker is given up: no sign of life for `stall_ns`, or past `deadline_ns`; or `stop` is set.

    A worker that waits for its next frame or for others at a gate is in good order, however long that takes.
    """

    stall_ns: int
    deadline_ns: int
    stop: asyncio.Event


@dataclass(frozen=True)
class Surroundings:
    """Where workers run: control groups, where there are any, telemetry that wants to know their process ids, clocks
    that can be set, where their working folders are made (None: where temporary files are), the processors that are
    left to them (None: all that the agent may use), and where engines are kept that backends build.
    """

    cgroups: Cgroups | None = None
    telemetry: Telemetry | None = None
    folders: Path | None = None
    clocks: Clocks | None = None
    processors: frozenset[int] | None = None
    engines: EngineCache | None = None

    def begin(self, pid: int) -> None:
        """A worker has started, and has one thread yet; those that follow inherit where it may run."""
        if self.processors is not None:
            with contextlib.suppress(OSError):  # it has ended already
                os.sched_setaffinity(pid, self.processors)
        if self.telemetry is not None:
            self.telemetry.begin(pid)

    def end(self, pid: int) -> None:
        """A worker is about to end."""
        if self.telemetry is not None:
            self.telemetry.end(pid)


class Worker:
    """One worker process. `frames` gets blocks, `progress` gets (stage, frames done).

    A gated one comes to a halt before its timed window: `ready` is set then, and `release` lets it go on.
    """

    def __init__(
        self,
        job: Job,
        launch: int,
        frames: Callable[[FrameBlock], None],
        progress: Callable[[str, int], None],
        *,
        stream: int = 0,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._job = job
        self._launch = launch
        self._frames = frames
        self._progress = progress
        self._stream = stream
        self._surroundings = surroundings or Surroundings()
        self._child: Child | None = None
        self.ready = asyncio.Event()
        self._released = False
        self._pause_ns = 0
        self.counters: dict[str, int] = {}
        self._stage = "start"
        self._emitted = 0
        self._flushed_ns = time.perf_counter_ns()
        self._alive_ns = self._flushed_ns
        self._seen = 0
        self._stderr = Tail()
        self._failure: RunFailure | None = None
        self.report: dict[str, Any] | None = None

    async def run(self, watchdog: Watchdog) -> RunFailure | None:
        """Start the process and stay with it to its end; None when it did everything. Raises Stopped."""
        rows = self._job.warmup_frame_count + self._job.frame_count
        descriptor = table.create(rows) if self._job.purpose == "timed" else None
        try:
            frame_table = None if descriptor is None else table.FrameTable(descriptor, rows)
            try:
                with self._group() as group:
                    return await self._supervise(watchdog, frame_table, descriptor, group)
            finally:
                if frame_table is not None:
                    frame_table.close()
        finally:
            if descriptor is not None:
                os.close(descriptor)

    async def release(self) -> None:
        """Let a gated worker go on."""
        self._released, self._alive_ns = True, time.perf_counter_ns()
        if self._child is not None:
            await send_line(self._child.process, "go")

    def _group(self) -> contextlib.AbstractContextManager[Group | None]:
        cgroups = self._surroundings.cgroups
        return contextlib.nullcontext() if cgroups is None else cgroups.group(self._job.memory_limit_bytes)

    async def _supervise(
        self,
        watchdog: Watchdog,
        frame_table: table.FrameTable | None,
        descriptor: int | None,
        group: Group | None,
    ) -> RunFailure | None:
        kills = oom_kill_count()
        job = replace(self._job, table_descriptor=descriptor, spawned_ns=time.perf_counter_ns(), parent_pid=os.getpid())
        descriptors = () if descriptor is None else (descriptor,)
        folders = self._surroundings.folders
        try:
            child = self._child = await processes.start(_WORKER, descriptors=descriptors, folders=folders)
        except OSError as error:
            return not_started(error)
        process = child.process
        # It reads its job before it imports any library; what the bare interpreter held by then stays uncounted.
        if group is not None and group.add(process.pid) and job.memory_limit_bytes is not None:
            job = replace(job, memory_limit_bytes=None, memory_limit_held_by="cgroup")
        # One that hangs before it has read its job holds that up: so it is sent beside everything else.
        sending = send_line(process, job.to_json(), close=not job.gated)
        talk = asyncio.gather(sending, self._read_events(process), self._stderr.read(process.stderr))
        self._surroundings.begin(process.pid)
        ended: RunFailure | None = None
        try:
            ended = await self._wait(child, watchdog, frame_table)
        except _Damaged as damage:
            self._spoil(damage)
        finally:
            self._surroundings.end(process.pid)
            await processes.end(child, group)
            await last_words(talk)
            if frame_table is not None:
                try:
                    self._drain(frame_table, frame_table.written)
                except _Damaged as damage:
                    self._spoil(damage)
        limited = False
        if group is not None:
            if (peak := group.peak_bytes()) is not None:
                self.counters["cgroup_peak_bytes"] = peak
            limited = group.out_of_memory_kills() > 0
        if ended is not None:
            return RunFailure(ended.reason, ended.message, log_tail=tuple(self._stderr.lines))
        return self._ending(process.returncode or 0, oom_killed=limited or oom_kill_count() > kills)

    async def _wait(self, child: Child, watchdog: Watchdog, frame_table: table.FrameTable | None) -> RunFailure | None:
        exited = asyncio.ensure_future(child.process.wait())
        try:
            while True:
                await asyncio.wait({exited}, timeout=TICK_S)
                if exited.done() or child.ended:
                    return None
                if frame_table is not None:
                    self._take(frame_table)
                if watchdog.stop.is_set():
                    raise Stopped
                now = time.perf_counter_ns()
                waits_for_others = self.ready.is_set() and not self._released
                if now - self._alive_ns > watchdog.stall_ns + self._pause_ns and not waits_for_others:
                    seconds = (now - self._alive_ns) / SECOND_NS
                    message = (
                        f"the worker made no progress for {seconds:.0f} s in stage {self._stage}: it hangs, or the"
                        " device is far too slow for this model; take a smaller model or size"
                    )
                    return RunFailure(FailureReason.WORKER_TIMED_OUT, message)
                if now > watchdog.deadline_ns:
                    message = "the run took longer than its limit; ask for fewer frames or raise --timeout"
                    return RunFailure(FailureReason.RUN_TIMED_OUT, message)
        finally:
            exited.cancel()

    def _take(self, frame_table: table.FrameTable) -> None:
        written = frame_table.written
        now = time.perf_counter_ns()
        if written != self._seen:
            self._seen, self._alive_ns = written, now
            self._progress("measure", written)
        complete = max(0, written - 1)
        if complete - self._emitted >= BLOCK_ROWS or now - self._flushed_ns >= FLUSH_NS:
            self._drain(frame_table, complete)
            self._flushed_ns = now

    def _drain(self, frame_table: table.FrameTable, last: int) -> None:
        while self._emitted < last:
            end = min(last, self._emitted + BLOCK_ROWS)
            columns = frame_table.columns(self._emitted, end)
            if not _are_frames(columns, self._emitted, end):
                raise _Damaged("wrote over its table of frames")
            self._frames(_block(self._launch, self._stream, columns))
            self._emitted = end

    async def _read_events(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            async for line in process.stdout:
                self._alive_ns = time.perf_counter_ns()
                self._happened(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._spoil(_Damaged(f"said something unintelligible ({type(error).__name__})"))
            processes.kill_group(process)

    def _spoil(self, damage: _Damaged) -> None:
        message = f"the worker {damage} in stage {self._stage}; run it again"
        self._failure = RunFailure(FailureReason.WORKER_CRASHED, message)

    def _happened(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "stage":
            self._stage = str(event["stage"])
            if self._stage == "ready":
                self.ready.set()
            self._progress(self._stage, 0)
        elif kind == "pause":
            self._pause_ns = int(event["longest_ns"])
        elif kind == "report":
            self.report = event
        elif kind == "failure":
            self._failure = _failure_told(event)

    def _ending(self, status: int, oom_killed: bool) -> RunFailure | None:
        tail = tuple(self._stderr.lines)
        if self._failure is not None:
            return RunFailure(self._failure.reason, self._failure.message, log_tail=tail)
        if status == 0 and self.report is not None:
            return None
        limited = self._job.memory_limit_bytes is not None
        return failure_of(status, tail, self._stage, memory_limited=limited, oom_killed=oom_killed)


async def run_together(workers: Sequence[Worker], watchdog: Watchdog) -> RunFailure | None:
    """Run workers side by side; gated ones begin their timed windows when the last of them is ready.

    When one fails the others are ended, and its failure is given. Raises Stopped.
    """
    if len(workers) == 1:
        return await workers[0].run(watchdog)
    ending = asyncio.Event()
    inner = Watchdog(watchdog.stall_ns, watchdog.deadline_ns, ending)
    running = [asyncio.ensure_future(worker.run(inner)) for worker in workers]
    opening = asyncio.ensure_future(_open_gate(workers))
    asked = asyncio.ensure_future(watchdog.stop.wait())
    failure: RunFailure | None = None
    left = set(running)
    try:
        while left and failure is None and not asked.done():
            await asyncio.wait({*left, asked}, return_when=asyncio.FIRST_COMPLETED)
            ended = [worker for worker in left if worker.done()]
            left.difference_update(ended)
            failure = next((each for worker in ended if (each := worker.result()) is not None), None)
    finally:
        ending.set()
        opening.cancel()
        asked.cancel()
        await asyncio.gather(*running, opening, asked, return_exceptions=True)
    if watchdog.stop.is_set() and left:
        raise Stopped
    return failure


async def _open_gate(workers: Sequence[Worker]) -> None:
    for worker in workers:
        await worker.ready.wait()
    for worker in workers:
        await worker.release()


async def stay(child: Child, watchdog: Watchdog, overdue: str) -> RunFailure | None:
    """Stay with a process that makes something ready to its end; `overdue` says what took too long.

    Raises Stopped. Where this is left otherwise than by None, the process goes on: end it.
    """
    exited = asyncio.ensure_future(child.process.wait())
    try:
        while not exited.done() and not child.ended:
            await asyncio.wait({exited}, timeout=TICK_S)
            if watchdog.stop.is_set():
                raise Stopped
            if time.perf_counter_ns() > watchdog.deadline_ns:
                return RunFailure(FailureReason.RUN_TIMED_OUT, f"{overdue} took longer than --timeout allows; raise it")
    finally:
        exited.cancel()
    return None


async def prepare_model(
    arguments: list[str],
    watchdog: Watchdog,
    external: Mapping[str, str] | None = None,
    folders: Path | None = None,
) -> RunFailure | None:
    """Make a model ready in a process of its own; None when it is there. Raises Stopped.

    `external` are the paths of the files in which the model keeps weights, by their locations.
    """
    kills = oom_kill_count()
    try:
        child = await processes.start("backbench.agent.prepare", *arguments, folders=folders)
    except OSError as error:
        return not_started(error)
    told = json.dumps({"parent_pid": os.getpid(), "external": dict(external or {})})
    said, stderr = Tail(longest=65536), Tail()
    sending = send_line(child.process, told)
    talk = asyncio.gather(sending, said.read(child.process.stdout), stderr.read(child.process.stderr))
    try:
        if (late := await stay(child, watchdog, "making the model ready")) is not None:
            return late
    finally:
        await processes.end(child)
        await last_words(talk)
    if child.process.returncode == 0:
        return None
    tail = tuple(stderr.lines)
    if child.process.returncode == 1 and said.lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            return replace(_failure_told(json.loads(said.lines[-1])), log_tail=tail)
    return failure_of(child.process.returncode or 0, tail, "prepare", oom_killed=oom_kill_count() > kills)


def _failure_told(event: dict[str, Any]) -> RunFailure:
    """The failure that a process tells of. Raises ValueError, KeyError or TypeError where it is none."""
    return RunFailure(FailureReason(event["reason"]), str(event["message"]))


def _are_frames(columns: dict[str, tuple[int, ...]], first: int, last: int) -> bool:
    """Whether these rows are what a worker writes: their own numbers, and values that have a meaning."""
    small = (*columns["tags"], *columns["input"])
    return (
        columns["index"] == tuple(range(first, last))
        and _OUTCOMES.issuperset(columns["outcome"])
        and min(small) >= 0
        and max(small) <= _HIGHEST
    )


def _block(launch: int, stream: int, columns: dict[str, tuple[int, ...]]) -> FrameBlock:
    """The rows as a block; a span that no frame has was not measured, and its column is left empty."""
    times: dict[str, tuple[int | None, ...]] = {}
    for name, column in columns.items():
        if name.endswith("_ns"):
            absent = column.count(table.NOT_REACHED)
            unmeasured = absent == len(column) and name in _SPANS
            nullable = tuple(None if value == table.NOT_REACHED else value for value in column) if absent else column
            times[name] = () if unmeasured else nullable
    index, outcome, tags, inputs = (columns[name] for name in ("index", "outcome", "tags", "input"))
    return FrameBlock(
        launch=launch, stream=stream, index=index, outcome=outcome, tags=tags, input=inputs, **times
    )  # fmt: skip
