"""A worker process: `python -m backbench.agent.worker` with a job on standard input."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

_STARTED_NS = time.perf_counter_ns()

from backbench.agent.worker.job import Job, job_from_json  # noqa: E402 - the interpreter's own start is a phase

if TYPE_CHECKING:
    from backbench.agent.backends.base import Engine
    from backbench.agent.worker.inputs import Inputs

_PR_SET_PDEATHSIG = 1
_MEMORY_PASS_FRAMES = 20


class Reporter:
    """Writes events for the agent, one JSON document a line, and keeps the phases of the cold start."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.phases: list[tuple[str, int]] = []
        self.memory: list[dict[str, Any]] = []

    def send(self, event: str, **fields: Any) -> None:
        """One event."""
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()

    def phase(self, name: str, since_ns: int) -> int:
        """Close a phase that began at `since_ns`; returns the next one's beginning."""
        from backbench.agent.worker import memory

        end = time.perf_counter_ns()
        self.phases.append((name, end - since_ns))
        figures = memory.read_memory()
        peak, resident = figures.pop("VmHWM", 0), figures.pop("VmRSS", 0)
        self.memory.append({"name": name, "peak_bytes": peak, "resident_bytes": resident, "figures": figures})
        memory.reset_peak()
        self.send("stage", stage=name)
        return time.perf_counter_ns()


def main() -> int:
    """Read the job, measure, report; the exit status is 0 only when everything asked for was done."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the events
    job = job_from_json(sys.stdin.readline())
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job.parent_pid:
        return 1  # the agent is gone already
    from backbench.agent.backends.base import WorkerFailure
    from backbench.domain.run import FailureReason

    reporter = Reporter(stream)
    try:
        _work(job, reporter)
    except WorkerFailure as failure:
        reporter.send("failure", reason=failure.reason.value, message=str(failure))
        return 1
    except MemoryError:
        reason = FailureReason.OUT_OF_MEMORY.value
        reporter.send(
            "failure", reason=reason, message="the worker could not get the memory it needs; use a smaller size"
        )
        return 1
    return 0


def _work(job: Job, reporter: Reporter) -> None:
    from backbench.agent.backends.base import OpenRequest
    from backbench.agent.backends.table import backend_named

    reporter.phases.append(("process", _STARTED_NS - job.spawned_ns))
    backend = backend_named(job.backend)
    at = reporter.phase("interpreter", _STARTED_NS)
    backend.load()
    from backbench.agent.worker.inputs import inputs_for

    at = reporter.phase("import", at)
    shape = (job.batch, 3, job.height, job.width)
    with backend.open(OpenRequest(job.model_path, shape, job.threads, job.spin)) as engine:
        at = reporter.phase("load", at)
        inputs = inputs_for(job)
        engine.bind(inputs.slots)
        at = reporter.phase("inputs", at)
        _first_inference(job, engine, inputs)
        reporter.phase("first_inference", at)
        if job.purpose == "memory":
            _memory_pass(job, engine, inputs, reporter)
        else:
            _timed_pass(job, engine, inputs, reporter)


def _first_inference(job: Job, engine: Engine, inputs: Inputs) -> None:
    from backbench.agent.backends.base import WorkerFailure
    from backbench.domain.run import FailureReason

    try:
        engine.infer(inputs.fill(0))
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise WorkerFailure(
            FailureReason.SHAPE_MISMATCH,
            f"the model does not run at {job.height}x{job.width}, batch {job.batch}: {words}; choose another --size",
        ) from error


def _memory_pass(job: Job, engine: Engine, inputs: Inputs, reporter: Reporter) -> None:
    at = time.perf_counter_ns()
    for frame in range(_MEMORY_PASS_FRAMES):
        engine.infer(inputs.fill(frame))
    reporter.phase("steady", at)
    reporter.send("report", memory=reporter.memory, facts=_facts(job, engine, inputs))


def _timed_pass(job: Job, engine: Engine, inputs: Inputs, reporter: Reporter) -> None:
    from backbench.agent.worker import outputs
    from backbench.agent.worker.loop import QuietWindow, Window, closed_loop
    from backbench.agent.worker.table import FrameTable, row_offset
    from backbench.domain.frame import FrameTag

    if job.table_descriptor is None:
        raise ValueError("a timed job needs a frame table")
    # One that cannot be used is found out before the window, and its frames are run after it.
    reference = outputs.opened_reference(job)
    rows = job.warmup_frame_count + job.frame_count
    table = FrameTable(job.table_descriptor, rows)
    table.touch()
    at = time.perf_counter_ns()
    warmup = Window(0, job.warmup_frame_count, FrameTag.WARM_UP.value)
    timed = Window(job.warmup_frame_count, job.frame_count, 0)
    with QuietWindow() as quiet:
        closed_loop(warmup, table, inputs.fill, engine.infer, inputs.count, inputs.timed)
        reporter.phases.append(("warmup", time.perf_counter_ns() - at))
        closed_loop(timed, table, inputs.fill, engine.infer, inputs.count, inputs.timed)
    first, last = row_offset(timed.first), row_offset(rows - 1)
    checks: list[dict[str, Any]] = []
    if reference is not None:
        tell = partial(reporter.send, "stage", stage="outputs")
        checks = outputs.output_checks(reference, job, engine, inputs.slots[0], tell)
    reporter.send(
        "report",
        phases=reporter.phases,
        facts=_facts(job, engine, inputs),
        counters=dict(quiet.counters),
        window_start_ns=table.words[first + 2],
        window_end_ns=max(table.words[last + 3], table.words[last + 2]),
        output_checks=checks,
    )


def _facts(job: Job, engine: Engine, inputs: Inputs) -> dict[str, str]:
    import platform

    facts = {
        **engine.facts,
        "clock": "CLOCK_MONOTONIC",
        "batch": str(job.batch),
        "python": platform.python_version(),
        "inputs": f"{inputs.count} images" if inputs.timed else f"{inputs.count} synthetic, seed {job.seed}",
        "warmup": f"{job.warmup_frame_count} frames",
    }
    if inputs.timed:
        import PIL

        facts["image_library"] = f"pillow {PIL.__version__}"
    return facts


if __name__ == "__main__":
    sys.exit(main())
