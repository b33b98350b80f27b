"""Carries out one run: makes the model ready, measures memory, measures frames; every step is an event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backbench.agent.artifacts import ArtifactStore
from backbench.agent.identity import default_threads
from backbench.agent.models import ModelCache
from backbench.agent.sampler import Sampler
from backbench.agent.sensors.base import Sensor
from backbench.agent.supervisor import Watchdog, Worker, prepare_model
from backbench.agent.worker.job import Job
from backbench.domain.event import (
    Happening,
    LaunchReport,
    LogLine,
    MemoryPhase,
    OutputCheck,
    Phase,
    Progress,
    StateChange,
)
from backbench.domain.frame import FrameBlock
from backbench.domain.run import LaunchPurpose, RunFailure, RunSpec, RunState

Emit = Callable[[Happening], None]


class Execution:
    """One run on its way through the stages. `emit` journals an event, or shows it if it is progress."""

    def __init__(
        self, spec: RunSpec, artifacts: ArtifactStore, models: ModelCache, sensors: Sequence[Sensor], emit: Emit
    ) -> None:
        self._spec = spec
        self._artifacts = artifacts
        self._models = models
        self._sensors = sensors
        self._emit = emit
        self._shown: tuple[str, int] = ("", -1)

    async def perform(self, stop: asyncio.Event) -> RunFailure | None:
        """Everything the specification asks for; None when all of it was done. Raises supervisor.Stopped."""
        spec = self._spec
        deadline_ns = time.perf_counter_ns() + spec.run_timeout_ns
        watchdog = Watchdog(spec.stall_timeout_ns, deadline_ns, stop)
        self._emit(StateChange(RunState.PREPARING))
        model_path, failure = await self._prepare(watchdog)
        if failure is not None:
            return failure
        self._emit(StateChange(RunState.RUNNING))
        sampling = asyncio.ensure_future(self._sample()) if spec.telemetry_rate_hz else None
        try:
            if spec.memory_pass:
                failure = await self._launch(LaunchPurpose.MEMORY, 0, model_path, watchdog)
            for launch in range(spec.launches):
                if failure is None:
                    failure = await self._launch(LaunchPurpose.TIMED, launch, model_path, watchdog)
        finally:
            if sampling is not None:
                sampling.cancel()
                await asyncio.gather(sampling, return_exceptions=True)
        self._emit(StateChange(RunState.FINISHING))
        return failure

    async def _prepare(self, watchdog: Watchdog) -> tuple[Path, RunFailure | None]:
        spec = self._spec
        path = self._models.path(spec)
        if self._models.ready(path):
            return path, None
        self._emit(Progress("materialise" if spec.model.source == "skeleton" else "prepare"))
        kind = "skeleton" if spec.model.source == "skeleton" else "model"
        source = str(self._artifacts.path(spec.model.sha256))
        numbers = (str(spec.batch), str(spec.height), str(spec.width))
        failure = await prepare_model([source, str(path), kind, *numbers], watchdog)
        if failure is None:
            self._models.trim(keep=path)
        return path, failure

    async def _launch(
        self, purpose: LaunchPurpose, launch: int, model_path: Path, watchdog: Watchdog
    ) -> RunFailure | None:
        job = self._job(purpose, model_path)

        def progress(stage: str, done: int) -> None:
            total = job.warmup_frame_count + job.frame_count if stage == "measure" else None
            if (stage, done) != self._shown:
                self._shown = (stage, done)
                name = "memory" if purpose is LaunchPurpose.MEMORY else stage
                self._emit(Progress(name, launch, done, total))

        worker = Worker(job, launch, self._frames, progress)
        failure = await worker.run(watchdog)
        if worker.report is not None:
            self._emit(_launch_report(launch, purpose, worker.report))
        if failure is not None:
            for line in failure.log_tail:
                self._emit(LogLine("error", line))
        return failure

    def _frames(self, block: FrameBlock) -> None:
        self._emit(block)

    def _job(self, purpose: LaunchPurpose, model_path: Path) -> Job:
        spec = self._spec
        images, reference = spec.inputs.images, spec.model.reference_sha256
        timed = purpose is LaunchPurpose.TIMED
        return Job(
            purpose=purpose.value,
            model_path=str(model_path),
            height=spec.height,
            width=spec.width,
            batch=spec.batch,
            backend=spec.backend.name,
            threads=spec.backend.threads or default_threads(),
            spin=spec.backend.spin,
            image_paths=tuple(str(self._artifacts.path(image.sha256)) for image in images),
            image_names=tuple(image.name for image in images),
            preprocess=spec.preprocess,
            seed=spec.inputs.seed,
            synthetic_count=spec.inputs.synthetic_count,
            warmup_frame_count=spec.scenario.warmup_frame_count,
            frame_count=spec.scenario.frame_count or 0,
            spawned_ns=0,
            parent_pid=0,
            reference_path=str(self._artifacts.path(reference)) if reference and timed else None,
        )

    async def _sample(self) -> None:
        sampler = Sampler(self._sensors)
        period_ns = round(1e9 / self._spec.telemetry_rate_hz)
        due_ns = flushed_ns = time.perf_counter_ns()
        try:
            while True:
                sampler.sample()
                due_ns += period_ns
                if due_ns - flushed_ns >= 10**9 and (block := sampler.take()) is not None:
                    self._emit(block)
                    flushed_ns = due_ns
                await asyncio.sleep(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
        finally:
            sampler.sample()
            if (block := sampler.take()) is not None:
                self._emit(block)


def _launch_report(launch: int, purpose: LaunchPurpose, report: dict[str, Any]) -> LaunchReport:
    return LaunchReport(
        launch=launch,
        purpose=purpose,
        phases=tuple(Phase(name, length) for name, length in report.get("phases", ())),
        memory=tuple(MemoryPhase(**phase) for phase in report.get("memory", ())),
        facts=report["facts"],
        counters=report.get("counters", {}),
        window_start_ns=report.get("window_start_ns"),
        window_end_ns=report.get("window_end_ns"),
        output_checks=tuple(OutputCheck(**check) for check in report.get("output_checks", ())),
    )
