"""Starts one worker process, takes its frames and events as they come, and says how it ended.

The worker may crash, hang or be killed at any moment: what it had written by then is kept, and the ending becomes a
typed failure with its last lines of standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbench.agent.worker import table
from backbench.agent.worker.job import Job
from backbench.domain.frame import FrameBlock
from backbench.domain.run import SECOND_NS, FailureReason, RunFailure

TICK_S = 0.2
BLOCK_ROWS = 256
FLUSH_NS = SECOND_NS
"""Frames reach the journal at the latest this long after they were measured."""
_LOG_LINES = 20
_OOM_KILLS = Path("/proc/vmstat")


class Stopped(Exception):
    """The worker was ended because somebody asked for it."""


@dataclass(frozen=True)
class Watchdog:
    """When a worker is given up: no sign of life for `stall_ns`, or past `deadline_ns`; or `stop` is set."""

    stall_ns: int
    deadline_ns: int
    stop: asyncio.Event


class Worker:
    """One worker process. `frames` gets blocks, `progress` gets (stage, frames done)."""

    def __init__(
        self, job: Job, launch: int, frames: Callable[[FrameBlock], None], progress: Callable[[str, int], None]
    ) -> None:
        self._job = job
        self._launch = launch
        self._frames = frames
        self._progress = progress
        self._stage = "start"
        self._emitted = 0
        self._flushed_ns = time.perf_counter_ns()
        self._alive_ns = self._flushed_ns
        self._seen = 0
        self._stderr: deque[str] = deque(maxlen=_LOG_LINES)
        self._failure: RunFailure | None = None
        self.report: dict[str, Any] | None = None

    async def run(self, watchdog: Watchdog) -> RunFailure | None:
        """Start the process and stay with it to its end; None when it did everything. Raises Stopped."""
        rows = self._job.warmup_frame_count + self._job.frame_count
        descriptor = table.create(rows) if self._job.purpose == "timed" else None
        try:
            frame_table = None if descriptor is None else table.FrameTable(descriptor, rows)
            try:
                return await self._supervise(watchdog, frame_table, descriptor)
            finally:
                if frame_table is not None:
                    frame_table.close()
        finally:
            if descriptor is not None:
                os.close(descriptor)

    async def _supervise(
        self, watchdog: Watchdog, frame_table: table.FrameTable | None, descriptor: int | None
    ) -> RunFailure | None:
        job = replace(self._job, table_descriptor=descriptor, spawned_ns=time.perf_counter_ns(), parent_pid=os.getpid())
        kills = _oom_kill_count()
        process = await _spawn("backbench.agent.worker", descriptor)
        readers = asyncio.gather(self._read_events(process), self._read_stderr(process))
        try:
            await _send_line(process, job.to_json())
            ended = await self._wait(process, watchdog, frame_table)
        finally:
            kill_group(process)
            await process.wait()
            await readers
            if frame_table is not None:
                self._drain(frame_table, frame_table.written)
        if ended is not None:
            return RunFailure(ended.reason, ended.message, log_tail=tuple(self._stderr))
        return self._ending(process.returncode or 0, oom_killed=_oom_kill_count() > kills)

    async def _wait(
        self, process: asyncio.subprocess.Process, watchdog: Watchdog, frame_table: table.FrameTable | None
    ) -> RunFailure | None:
        exited = asyncio.ensure_future(process.wait())
        try:
            while True:
                await asyncio.wait({exited}, timeout=TICK_S)
                if exited.done():
                    return None
                if frame_table is not None:
                    self._take(frame_table)
                if watchdog.stop.is_set():
                    raise Stopped
                now = time.perf_counter_ns()
                if now - self._alive_ns > watchdog.stall_ns:
                    seconds = watchdog.stall_ns / SECOND_NS
                    message = (
                        f"the worker made no progress for {seconds:g} s in stage {self._stage}; raise --stall-timeout"
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
            self._frames(_block(self._launch, columns, timed_fill=bool(self._job.image_paths)))
            self._emitted = end

    async def _read_events(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        async for line in process.stdout:
            self._alive_ns = time.perf_counter_ns()
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "stage":
                self._stage = event["stage"]
                self._progress(self._stage, 0)
            elif kind == "report":
                self.report = event
            elif kind == "failure":
                self._failure = RunFailure(FailureReason(event["reason"]), event["message"])

    async def _read_stderr(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - it was asked for
        while data := await process.stderr.read(65536):
            self._stderr.extend(line[:500] for line in data.decode("utf-8", "replace").splitlines() if line.strip())

    def _ending(self, status: int, oom_killed: bool) -> RunFailure | None:
        tail = tuple(self._stderr)
        if self._failure is not None:
            return RunFailure(self._failure.reason, self._failure.message, log_tail=tail)
        if status == 0 and self.report is not None:
            return None
        if status < 0:
            name = signal.Signals(-status).name
            if -status == signal.SIGKILL and oom_killed:
                message = "the kernel killed the worker because memory ran out; use a smaller model or size"
                return RunFailure(FailureReason.OUT_OF_MEMORY, message, signal=-status, log_tail=tail)
            message = f"the worker was ended by {name} in stage {self._stage}; frames until then are kept"
            return RunFailure(FailureReason.WORKER_CRASHED, message, signal=-status, log_tail=tail)
        last = tail[-1] if tail else "nothing on its standard error"
        message = f"the worker exited with status {status} in stage {self._stage}: {last}"
        return RunFailure(FailureReason.WORKER_CRASHED, message, exit_status=status or None, log_tail=tail)


async def prepare_model(arguments: list[str], watchdog: Watchdog) -> RunFailure | None:
    """Make a model ready in a process of its own; None when it is there. Raises Stopped."""
    process = await _spawn("backbench.agent.prepare", None, *arguments)
    output = asyncio.ensure_future(process.communicate())
    try:
        while not output.done():
            await asyncio.wait({output}, timeout=TICK_S)
            if watchdog.stop.is_set():
                raise Stopped
            if time.perf_counter_ns() > watchdog.deadline_ns:
                return RunFailure(
                    FailureReason.RUN_TIMED_OUT, "making the model ready took longer than --timeout allows"
                )
        stdout, stderr = output.result()
    finally:
        kill_group(process)
        await process.wait()
        output.cancel()
    if process.returncode == 0:
        return None
    lines = stdout.decode("utf-8", "replace").splitlines()
    tail = tuple(stderr.decode("utf-8", "replace").splitlines()[-_LOG_LINES:])
    if process.returncode == 1 and lines and lines[-1].startswith("{"):
        event = json.loads(lines[-1])
        return RunFailure(FailureReason(event["reason"]), event["message"], log_tail=tail)
    status = process.returncode or 0
    message = f"making the model ready ended with status {status}: {tail[-1] if tail else 'no message'}"
    return RunFailure(FailureReason.WORKER_CRASHED, message, signal=-status if status < 0 else None, log_tail=tail)


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill a process and everything it started, if any of it still lives."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _spawn(module: str, descriptor: int | None, *arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, limit=16 << 20,
        pass_fds=() if descriptor is None else (descriptor,), start_new_session=True,
    )  # fmt: skip


async def _send_line(process: asyncio.subprocess.Process, line: str) -> None:
    assert process.stdin is not None  # noqa: S101 - it was asked for
    try:
        process.stdin.write(line.encode() + b"\n")
        await process.stdin.drain()
        process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended already; how it ended says the rest


def _block(launch: int, columns: dict[str, tuple[int, ...]], timed_fill: bool) -> FrameBlock:
    nullable: dict[str, tuple[int | None, ...]] = {
        name: tuple(None if value == table.NOT_REACHED else value for value in column)
        if table.NOT_REACHED in column
        else column
        for name, column in columns.items()
        if name.endswith("_ns")
    }
    return FrameBlock(
        launch=launch,
        index=columns["index"],
        due_ns=nullable["due_ns"],
        dequeued_ns=nullable["dequeued_ns"],
        done_ns=nullable["done_ns"],
        outcome=columns["outcome"],
        tags=columns["tags"],
        input=columns["input"],
        preprocess_ns=nullable["preprocess_ns"] if timed_fill else (),
        compute_ns=nullable["compute_ns"],
    )


def _oom_kill_count() -> int:
    try:
        for line in _OOM_KILLS.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
