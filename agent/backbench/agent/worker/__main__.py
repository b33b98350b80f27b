"""A worker process: `python -m backbench.agent.worker` with a job on standard input."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

_STARTED_NS = time.perf_counter_ns()

from backbench.agent.isolation import isolate  # noqa: E402 - the interpreter's own start is a phase
from backbench.agent.worker import memory  # noqa: E402
from backbench.agent.worker.job import Job, job_from_json  # noqa: E402
from backbench.agent.worker.reporting import Reporter  # noqa: E402

if TYPE_CHECKING:
    from backbench.agent.backends.base import Engine, OpenRequest
    from backbench.agent.worker.inputs import Inputs

_LARGEST_FILE = 1 << 20
"""Bytes; a worker writes no file, but for a table in memory of some 30 kB, in which the loop's own cost is measured."""
_LARGEST_PROFILE = 64 << 20
"""Bytes; a library writes what it knows of its layers into the worker's own folder."""
_MEMORY_PASS_FRAMES = 200
_MEMORY_PASS_NS = 5 * 10**9
"""No frame of the memory pass begins later than this after the first one."""


def main() -> int:
    """Read the job, measure, report; the exit status is 0 only when everything asked for was done."""
    line = sys.stdin.readline()
    if not line:
        return 1  # the agent is gone already
    job = job_from_json(line)
    held = isolate(_LARGEST_PROFILE if job.purpose == "layers" else _LARGEST_FILE)
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the events
    if os.getppid() != job.parent_pid:
        return 1  # the agent is gone already
    reporter = Reporter(stream, reads_memory=job.purpose == "memory")
    reporter.facts["isolation"] = held
    try:
        _work(job, reporter)
    except Exception as error:
        failure = _failure(error, job, reporter.current)
        if failure is None:
            raise
        reporter.send("failure", **failure)
        return 1
    return 0


def _failure(error: Exception, job: Job, phase: str) -> dict[str, str] | None:
    """The failure that an error is; None for what nobody foresaw."""
    from backbench.agent.backends.base import WorkerFailure
    from backbench.domain.run import FailureReason

    lacking = memory.lack_of_memory(error)
    if lacking is not None:
        words = " ".join(str(lacking).split()).rstrip(".")[:300] or type(lacking).__name__
        limited = job.memory_limit_bytes is not None or job.memory_limit_held_by
        remedy = "use a smaller model or size" + (", or raise --memory-limit" if limited else "")
        return {
            "reason": FailureReason.OUT_OF_MEMORY.value,
            "message": f"out of memory in phase {phase}: {words}; {remedy}",
        }
    if isinstance(error, WorkerFailure):
        return {"reason": error.reason.value, "message": str(error)}
    return None


def _work(job: Job, reporter: Reporter) -> None:
    reporter.phases.append(("process", _STARTED_NS - job.spawned_ns))
    with reporter.phase("interpreter", _STARTED_NS):
        if job.memory_limit_held_by:
            reporter.facts["memory_limit"] = memory.group_limit()
        elif job.memory_limit_bytes is not None:
            reporter.facts["memory_limit"] = memory.apply_memory_limit(job.memory_limit_bytes)
        from backbench.agent.backends.table import backend_named

        backend = backend_named(job.backend)
    with reporter.phase("import"):
        importlib.import_module("numpy")  # by itself: where memory runs out in it, no other error is put in its place
        backend.load()
        from backbench.agent.backends.base import MemoryTold
        from backbench.agent.worker.inputs import inputs_for
    with ExitStack() as opened:
        with reporter.phase("load"):
            engine = opened.enter_context(backend.open(_request(job)))
            if isinstance(engine, MemoryTold):
                reporter.further_figures = engine.memory_figures
        with reporter.phase("inputs"):
            inputs = inputs_for(job)
            engine.bind(inputs.slots)
        with reporter.phase("first_inference"):
            _first_inference(job, engine, inputs)
        if job.purpose == "memory":
            _memory_pass(job, engine, inputs, reporter, opened)
        elif job.purpose == "layers":
            _layers_pass(job, engine, inputs, reporter)
        else:
            _timed_pass(job, engine, inputs, reporter)


def _request(job: Job) -> OpenRequest:
    from backbench.agent.backends.base import OpenRequest

    return OpenRequest(
        job.model_path,
        (job.batch, 3, job.height, job.width),
        job.threads,
        job.spin,
        precision=job.precision,
        options=job.options,
        allow_fallback=job.allow_fallback,
        engine_path=job.engine_path,
        profiled=job.purpose == "layers",
    )


def _first_inference(job: Job, engine: Engine, inputs: Inputs) -> None:
    from backbench.agent.backends.base import WorkerFailure
    from backbench.domain.run import FailureReason

    try:
        engine.infer(inputs.fill(0))
    except WorkerFailure:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise WorkerFailure(
            FailureReason.SHAPE_MISMATCH,
            f"the model does not run at {job.height}x{job.width}, batch {job.batch}: {words}; choose another --size",
        ) from error


def _memory_pass(job: Job, engine: Engine, inputs: Inputs, reporter: Reporter, opened: ExitStack) -> None:
    """Frames that nobody times, then the memory that stays when the engine is closed."""
    from backbench.agent.worker.facts import verified_facts
    from backbench.agent.worker.postprocess import postprocess_named

    with reporter.phase("steady"):
        postprocess = postprocess_named(job.postprocess, engine)
        until_ns = time.perf_counter_ns() + _MEMORY_PASS_NS
        for frame in range(_MEMORY_PASS_FRAMES):
            if time.perf_counter_ns() > until_ns:
                break
            engine.infer(inputs.fill(frame))
            if postprocess is not None:
                postprocess()
    facts = verified_facts(job, engine, inputs)
    reporter.further_figures = None
    with reporter.phase("after_free"):
        opened.close()
        gc.collect()
    reporter.send("report", memory=reporter.memory, facts={**facts, **reporter.facts})


def _layers_pass(job: Job, engine: Engine, inputs: Inputs, reporter: Reporter) -> None:
    from backbench.agent.worker.facts import verified_facts
    from backbench.agent.worker.layers import profiled_layers

    with reporter.phase("layers"):
        layers, counters = profiled_layers(job, engine, inputs)
    facts = {**verified_facts(job, engine, inputs), **reporter.facts}
    reporter.send("report", phases=reporter.phases, facts=facts, layers=layers, counters=counters)


def _timed_pass(job: Job, engine: Engine, inputs: Inputs, reporter: Reporter) -> None:
    from backbench.agent.worker.facts import verified_facts
    from backbench.agent.worker.timed import AgentGone, TimedLaunch

    try:
        measured = TimedLaunch(job, engine, inputs, reporter, sys.stdin).perform()
    except AgentGone:
        sys.exit(1)
    facts = {**verified_facts(job, engine, inputs), **reporter.facts}
    reporter.send("report", phases=reporter.phases, facts=facts, **measured)


if __name__ == "__main__":
    sys.exit(main())
