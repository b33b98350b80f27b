"""A clock that only work and sleep move, tables of frames, and real worker processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from backbench.agent.worker import table
from backbench.agent.worker.job import Job

MakeTable = Callable[[int], table.FrameTable]


class SimulatedClock:
    """CLOCK_MONOTONIC as the loop sees it: it stands still but for what advances it."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000

    def __call__(self) -> int:
        return self.now_ns

    def sleep_until(self, due_ns: int) -> None:
        self.now_ns = max(self.now_ns, due_ns)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def make_table() -> Iterator[MakeTable]:
    """Tables of so many prepared rows."""
    opened: list[tuple[int, table.FrameTable]] = []

    def make(rows: int) -> table.FrameTable:
        descriptor = table.create(rows)
        made = table.FrameTable(descriptor, rows)
        opened.append((descriptor, made))
        made.prepare(0, rows)
        return made

    yield make
    for descriptor, made in opened:
        made.close()
        os.close(descriptor)


@dataclass
class StartedWorker:
    """A real worker process that has its job."""

    process: subprocess.Popen[str]
    frames: table.FrameTable | None

    def event(self) -> dict[str, Any]:
        """The next event; empty at the end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        event: dict[str, Any] = json.loads(line) if line else {}
        return event

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """The last event, once the process has ended; its exit status is in `process.returncode`."""
        last: dict[str, Any] = {}
        while event := self.event():
            last = event
        self.process.wait()
        return last


@pytest.fixture
def start_worker() -> Iterator[Callable[..., StartedWorker]]:
    """Starts workers; `setup` is Python that runs in the process first, to give it a backend of the test's own."""
    started: list[tuple[StartedWorker, int | None]] = []

    def start(job: Job, setup: str = "") -> StartedWorker:
        rows = job.warmup_frame_count + job.frame_count
        descriptor = table.create(rows) if job.purpose == "timed" else None
        code = f"{setup}\nimport sys\nfrom backbench.agent.worker.__main__ import main\nsys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, pass_fds=() if descriptor is None else (descriptor,),
        )  # fmt: skip
        worker = StartedWorker(process, None if descriptor is None else table.FrameTable(descriptor, rows))
        started.append((worker, descriptor))
        worker.tell(replace(job, table_descriptor=descriptor, parent_pid=os.getpid()).to_json() + "\n")
        return worker

    yield start
    for worker, descriptor in started:
        worker.process.kill()
        with worker.process:
            pass
        if worker.frames is not None and descriptor is not None:
            worker.frames.close()
            os.close(descriptor)
