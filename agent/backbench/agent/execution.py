"""Carries out one run: makes the model ready, measures memory, measures frames; every step is an event."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from backbench.agent.artifacts import ArtifactStore
from backbench.agent.backends.base import OpenRequest
from backbench.agent.building import EngineBuild, builds_engines
from backbench.agent.cooling import STAGE, wait_cool
from backbench.agent.identity import default_threads
from backbench.agent.launches import Setting, Tally, steps
from backbench.agent.models import ModelCache
from backbench.agent.recording import Note
from backbench.agent.sampling.lines import Plan
from backbench.agent.sampling.processors import spare_processor
from backbench.agent.supervisor import Surroundings, Watchdog, Worker, prepare_model, run_together
from backbench.agent.turns import Turns
from backbench.agent.worker.job import Job
from backbench.domain.event import (
    Happening,
    LaunchReport,
    Layer,
    LogLine,
    MemoryPhase,
    OutputCheck,
    Phase,
    Progress,
    StateChange,
)
from backbench.domain.frame import FrameBlock
from backbench.domain.run import (
    SECOND_NS,
    FailureReason,
    LaunchPurpose,
    QueuePolicy,
    RunFailure,
    RunSpec,
    RunState,
    ScenarioName,
)

Emit = Callable[[Happening | Note], None]
DEFAULT_WAIT_COOL_NS = 600 * SECOND_NS


class Execution:
    """One run on its way through the stages. `emit` journals an event, shows it if it is progress, or keeps a note."""

    def __init__(
        self,
        spec: RunSpec,
        artifacts: ArtifactStore,
        models: ModelCache,
        emit: Emit,
        *,
        frame_limit: int,
        surroundings: Surroundings | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._spec = spec
        self._artifacts = artifacts
        self._models = models
        self._emit = emit
        self._frame_limit = frame_limit
        self._surroundings = surroundings or Surroundings()
        self._telemetry = self._surroundings.telemetry
        self._turns = turns or Turns([spec.run_id])
        self._shown: tuple[str, int] = ("", -1)
        self._engine_path = ""

    async def perform(self, stop: asyncio.Event) -> RunFailure | None:
        """Everything the specification asks for; None when all of it was done. Raises supervisor.Stopped."""
        spec = self._spec
        deadline_ns = time.perf_counter_ns() + spec.run_timeout_ns * max(1, spec.group_size)
        watchdog = Watchdog(spec.stall_timeout_ns, deadline_ns, stop)
        self._emit(StateChange(RunState.PREPARING))
        self._artifacts.use(spec.artifacts)
        if self._telemetry is not None:
            self._telemetry.restart_clock()
        with self._models.held(self._models.path(spec)), contextlib.ExitStack() as held:
            async with self._turns.turn(spec.run_id, stop), self._sampled():
                model_path, failure = await self._made_ready(watchdog, held)
            if failure is None:
                failure = await self._measure(model_path, watchdog)
            if failure is None and spec.layers_pass:
                await self._profile_layers(model_path, watchdog)
        self._emit(StateChange(RunState.FINISHING))
        return failure

    async def _made_ready(self, watchdog: Watchdog, held: contextlib.ExitStack) -> tuple[Path, RunFailure | None]:
        """All that comes before the first timed launch: the model, its engine, and the memory that it takes."""
        model_path, failure = await self._prepare(watchdog)
        if failure is None and builds_engines(self._spec.backend.name):
            failure = await self._build(model_path, watchdog, held)
        if failure is None:
            self._emit(StateChange(RunState.RUNNING))
            if self._spec.memory_pass:
                failure = await self._launch(LaunchPurpose.MEMORY, 0, Setting(1), model_path, watchdog)
        return model_path, failure

    async def _build(self, model_path: Path, watchdog: Watchdog, held: contextlib.ExitStack) -> RunFailure | None:
        """Have the engine found or built, and keep it as long as `held` lasts."""
        spec, engines = self._spec, self._surroundings.engines
        assert engines is not None  # noqa: S101 - who has backends that build has a place for what they build
        request = OpenRequest(
            str(model_path),
            (spec.batch, 3, spec.height, spec.width),
            spec.backend.threads or default_threads(),
            spec.backend.spin,
            precision=spec.backend.precision,
            options=dict(spec.backend.options),
            allow_fallback=spec.backend.allow_fallback,
        )

        def show(done: int, total: int | None) -> None:
            self._emit(Progress("build", done_count=done, total_count=total))

        show(0, None)
        build = EngineBuild(engines, spec.backend.name, request, show)
        failure = self._named(await build.perform(watchdog, self._surroundings.folders), model_path)
        if failure is not None or build.entry is None:
            return failure
        self._engine_path = str(build.entry.path)
        held.enter_context(engines.held(build.entry.path))
        self._emit(build.report())
        return None

    async def _profile_layers(self, model_path: Path, watchdog: Watchdog) -> None:
        """The frames are there by now, whatever becomes of this: that there are no layers is a warning."""
        async with self._turns.turn(self._spec.run_id, watchdog.stop), self._sampled():
            failure = await self._launch(LaunchPurpose.LAYERS, 0, Setting(1), model_path, watchdog)
        if failure is not None:
            self._warn(f"the layers pass gave nothing: {failure.message}")

    async def _measure(self, model_path: Path, watchdog: Watchdog) -> RunFailure | None:
        spec = self._spec
        following = steps(spec, self._frame_limit)
        setting: Setting | None = next(following, None)
        launch = 0
        while setting is not None:
            tally = Tally(spec.scenario.deadline_at(setting.rate_mhz))
            async with self._turns.turn(spec.run_id, watchdog.stop):
                if launch == 0:
                    watchdog = await self._cooled(watchdog)
                with self._pinned():
                    async with self._sampled():
                        failure = await self._launch(LaunchPurpose.TIMED, launch, setting, model_path, watchdog, tally)
            if failure is not None:
                return self._end_of_steps(failure, setting)
            launch += 1
            try:
                setting = following.send(tally.outcome())
            except StopIteration:
                setting = None
        return None

    async def _cooled(self, watchdog: Watchdog) -> Watchdog:
        """Wait for a cool device where that is asked for; the time that it took is added to what the run may take."""
        spec = self._spec
        if spec.wait_cool_mc is None or self._telemetry is None:
            return watchdog
        limit_ns = spec.wait_cool_limit_ns or DEFAULT_WAIT_COOL_NS
        gate = await wait_cool(
            self._telemetry,
            spec.extra_sources,
            spec.wait_cool_mc,
            limit_ns,
            watchdog.stop,
            self._show_cooling,
            self._warn,
        )
        self._emit(gate)
        return replace(watchdog, deadline_ns=watchdog.deadline_ns + gate.waited_ns)

    def _show_cooling(self, hottest_mc: int | None) -> None:
        self._emit(Progress(STAGE, done_count=hottest_mc or 0, total_count=self._spec.wait_cool_mc))

    @contextlib.contextmanager
    def _pinned(self) -> Iterator[None]:
        """The device's clocks are pinned inside the block where that is asked for."""
        if not self._spec.set_clocks or self._surroundings.clocks is None:
            yield
            return
        with self._surroundings.clocks.pinned() as clocks_set:
            self._emit(clocks_set)
            yield

    @contextlib.asynccontextmanager
    async def _sampled(self) -> AsyncIterator[None]:
        """Telemetry inside the block is this run's. It is of its own turns alone: it is not to disturb the others."""
        if self._telemetry is None:
            yield
            return
        plan = Plan(self._spec.telemetry_rate_hz, self._spec.extra_sources)
        async with self._telemetry.sampled(plan, self._emit, self._warn):
            yield

    def _warn(self, text: str) -> None:
        self._emit(LogLine("warning", text))

    def _end_of_steps(self, failure: RunFailure, setting: Setting) -> RunFailure | None:
        """More engines than fit into the memory are what a search for their number is to find, not a failure."""
        if setting.streams > 1 and failure.reason is FailureReason.OUT_OF_MEMORY:
            self._emit(LogLine("warning", f"{setting.streams} engines at once do not fit: {failure.message}"))
            return None
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
        external = {file.location: str(self._artifacts.path(file.sha256)) for file in spec.model.external}
        folders = self._surroundings.folders
        try:
            failure = await prepare_model([source, str(path), kind, *numbers], watchdog, external, folders)
        finally:
            self._models.tidy(path)
        return path, self._named(failure, Path(source))

    async def _launch(
        self,
        purpose: LaunchPurpose,
        launch: int,
        setting: Setting,
        model_path: Path,
        watchdog: Watchdog,
        tally: Tally | None = None,
    ) -> RunFailure | None:
        """One worker, or several at once that begin their timed windows together."""
        job = replace(self._job(purpose, model_path, setting), schedule_seed=self._spec.scenario.seed + launch)

        def frames(block: FrameBlock) -> None:
            self._emit(block)
            if tally is not None:
                tally.add(block)

        def progress(stage: str, done: int) -> None:
            # Where the time ends the window, how many frames it will hold is not known.
            total = job.warmup_frame_count + job.frame_count if stage == "measure" and not job.duration_ns else None
            if (stage, done) != self._shown:
                self._shown = (stage, done)
                name = stage if purpose is LaunchPurpose.TIMED else purpose.value
                self._emit(Progress(name, launch, done, total))

        surroundings = self._placed(job.threads * setting.streams)
        workers = [
            Worker(
                job,
                launch,
                frames,
                progress if stream == 0 else _unshown,
                stream=stream,
                surroundings=surroundings,
            )
            for stream in range(setting.streams)
        ]
        failure = self._named(await run_together(workers, watchdog), model_path)
        self._report(purpose, launch, setting, workers)
        if failure is not None:
            for line in failure.log_tail:
                self._emit(LogLine("error", line))
        elif tally is not None:
            reports = [worker.report for worker in workers if worker.report is not None]
            tally.check(sum(report["counters"]["offered_frame_count"] for report in reports))
        return failure

    def _placed(self, threads: int) -> Surroundings:
        """The sampler on a processor of its own and the workers on the others, where so many threads leave one free."""
        if self._telemetry is None or not self._spec.telemetry_rate_hz:
            return self._surroundings
        spare = spare_processor(threads)
        self._telemetry.pin(spare)
        processors = None if spare is None else frozenset(os.sched_getaffinity(0)) - {spare}
        return replace(self._surroundings, processors=processors)

    def _named(self, failure: RunFailure | None, path: Path) -> RunFailure | None:
        """A failure that names the model as its user does, not by a file of the agent's own."""
        if failure is None:
            return None
        return replace(failure, message=failure.message.replace(str(path), self._spec.model.name))

    def _report(self, purpose: LaunchPurpose, launch: int, setting: Setting, workers: Sequence[Worker]) -> None:
        for stream, worker in enumerate(workers):
            if worker.report is not None:
                self._emit(_launch_report(launch, stream, purpose, setting, worker))
                if words := worker.report.get("frame_error"):
                    self._emit(LogLine("warning", f"launch {launch}: the first frame that failed said: {words}"))

    def _job(self, purpose: LaunchPurpose, model_path: Path, setting: Setting) -> Job:
        spec = self._spec
        images, reference, trace = spec.inputs.images, spec.model.reference_sha256, spec.scenario.trace_sha256
        timed = purpose is LaunchPurpose.TIMED
        policy = spec.scenario.queue_policy or QueuePolicy.LATEST
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
            frame_count=setting.frame_count,
            spawned_ns=0,
            parent_pid=0,
            arrivals=_arrivals(spec.scenario.name, setting),
            duration_ns=setting.duration_ns,
            rate_mhz=setting.rate_mhz,
            trace_path=str(self._artifacts.path(trace)) if trace else None,
            queue_policy=policy.value,
            queue_depth=spec.scenario.queue_depth or 1,
            idle_gap_ns=spec.scenario.idle_gap_ns or 0,
            postprocess=spec.postprocess,
            gated=timed and setting.streams > 1,
            memory_limit_bytes=spec.memory_limit_bytes,
            reference_path=str(self._artifacts.path(reference)) if reference and timed else None,
            precision=spec.backend.precision,
            options=dict(spec.backend.options),
            allow_fallback=spec.backend.allow_fallback,
            engine_path=self._engine_path,
        )


def _arrivals(name: ScenarioName, setting: Setting) -> str:
    named = {ScenarioName.POISSON: "poisson", ScenarioName.TRACE: "trace", ScenarioName.IDLE_FIRE: "idle"}
    return named.get(name) or ("closed-loop" if setting.rate_mhz is None else "constant")


def _unshown(stage: str, done: int) -> None:
    """The first of several workers shows how far they are."""


def _launch_report(launch: int, stream: int, purpose: LaunchPurpose, setting: Setting, worker: Worker) -> LaunchReport:
    report = worker.report or {}
    asked = {"stream_count": setting.streams}
    if setting.rate_mhz is not None:
        asked["rate_mhz"] = setting.rate_mhz
    return LaunchReport(
        launch=launch,
        purpose=purpose,
        phases=tuple(Phase(name, length) for name, length in report.get("phases", ())),
        memory=tuple(MemoryPhase(**phase) for phase in report.get("memory", ())),
        facts=report["facts"],
        counters={**report.get("counters", {}), **worker.counters, **asked},
        window_start_ns=report.get("window_start_ns"),
        window_end_ns=report.get("window_end_ns"),
        layers=tuple(Layer(**layer) for layer in report.get("layers", ())),
        output_checks=tuple(OutputCheck(**check) for check in report.get("output_checks", ())),
        stream=stream,
    )
