"""Everything that is kept of runs: the registry, a folder with a journal each, and those that are being written."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from backbench.agent.conditions import conditions_of
from backbench.agent.journal import Journal, JournalReader
from backbench.agent.recording import MAKE_ROOM, Note, Recording, run_result, storable, write_failure
from backbench.agent.recovery import (
    adopt,
    is_event,
    is_passing,
    keep_run,
    missing_end,
    progress_to_bytes,
    read_back,
    whole_events,
)
from backbench.agent.registry import Registry
from backbench.agent.retention import JournalUse, Retention
from backbench.domain.errors import AgentStopping, BackbenchError, DiskFull, RunNotFinished, TooManyCalls
from backbench.domain.event import Happening, LogLine, Progress, StateChange
from backbench.domain.run import FailureReason, Run, RunFailure, RunState
from backbench.wire.event import event_to_bytes

log = logging.getLogger(__name__)

SYNC_S = 1.0
"""A journal is put onto the disk this often; a power cut loses no more than what came since."""


class RunStore:
    """Runs in `root/runs`. Those that have not ended have a `Recording`."""

    def __init__(
        self,
        root: Path,
        registry: Registry,
        quota_bytes: int,
        retention: Retention | None = None,
        simulation: str = "",
    ) -> None:
        self._registry = registry
        self._simulation = simulation
        self._folder = root / "runs"
        self._retention = retention or Retention(self._folder, registry, quota_bytes)
        self._recordings: dict[str, Recording] = {}
        self._closed = False

    @property
    def recordings(self) -> Mapping[str, Recording]:
        """The runs that have not ended, by their ids."""
        return self._recordings

    def recover(self) -> list[Recording]:
        """After a start: what was going on becomes interrupted. Gives the queued runs, oldest first."""
        self._registry.reserve.fill()
        self._retention.sweep()
        adopt(self._folder, self._registry)
        queued = []
        for run in reversed(self._registry.list()):
            if not run.state.ended:
                try:
                    recording = self._take_up(run)
                except OSError as error:
                    self._give_up(run, error)
                else:
                    queued += [recording] if recording is not None else []
        return queued

    def begin(self, run: Run) -> Recording:
        """A new run with all that it has on the disk, or nothing. Raises ResultsNotCollected, DiskFull."""
        self._registry.reserve.fill()
        self._retention.check()
        run_id = run.spec.run_id
        folder = self._retention.path(run_id)
        try:
            with contextlib.ExitStack() as undo:
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                keep_run(folder, run)
                recording = Recording(run, undo.enter_context(Journal(folder)))
                recording.emit(StateChange(RunState.QUEUED))
                recording.sync()
                if recording.failure is not None:
                    raise DiskFull(recording.failure.message)
                self._registry.add(run)
                undo.pop_all()
        except OSError as error:
            raise DiskFull(write_failure(error, 0).message) from error
        self._recordings[run_id] = recording
        self._retention.begin(run_id)
        return recording

    def emit(self, recording: Recording, happening: Happening | Note) -> None:
        """Something happened in a run. Never raises: see `Recording.failure`."""
        if isinstance(happening, StateChange):
            try:
                self._registry.set_state(recording.spec.run_id, happening.state)
            except DiskFull as error:
                recording.fail(RunFailure(FailureReason.DISK_FULL, error.message))
            except BackbenchError as error:  # the journal, which says the same, is what counts
                log.warning("run %s: %s", recording.spec.run_id, error)
        recording.emit(happening)

    async def keep(self, recording: Recording) -> None:
        """Put the journal onto the disk again and again, and see to the room there, until cancelled."""
        while True:
            await recording.sync_news()
            try:
                self._registry.settle()
                self._retention.make_room()
                too_full = self._retention.too_full()
            except (BackbenchError, OSError) as error:
                too_full = False
                log.warning("no room can be made for run %s: %s", recording.spec.run_id, error)
            if too_full:
                message = (
                    f"the device's disk is almost full; everything until then is kept; {MAKE_ROOM}, then run it again"
                )
                recording.fail(RunFailure(FailureReason.DISK_FULL, message))
            await asyncio.sleep(SYNC_S)

    def start(self, recording: Recording) -> None:
        """The run begins now, under these conditions."""
        recording.begun_ns = time.perf_counter_ns()
        recording.conditions_start = conditions_of(self._simulation, recording.begun_ns)

    def end(self, recording: Recording, state: RunState, failure: RunFailure | None) -> None:
        """The run's end, in its journal and in the registry. Whatever the disk does, the run has ended after this."""
        if recording.failure is not None:
            state, failure = RunState.FAILED, recording.failure
            self._registry.reserve.release()
        failure = None if failure is None else storable(failure)
        conditions_end = conditions_of(self._simulation, recording.begun_ns)
        result = run_result(state, failure, recording.counts, recording.conditions_start, conditions_end)
        recording.end(result)
        self._forget(recording, state, failure)
        log.info("run %s is %s%s", recording.spec.run_id, state.value, f": {failure.message}" if failure else "")

    def get(self, run_id: str) -> Run:
        """One run. Raises RunNotFound."""
        return self._live(self._registry.get(run_id))

    def page(self, before: int | None = None) -> Iterator[tuple[int, Run]]:
        """Runs, newest first, each with its place in the order; only those before a place, where one is given."""
        return ((place, self._live(run)) for place, run in self._registry.page(before))

    def use(self) -> JournalUse:
        """What the journals take on the disk."""
        return self._retention.use()

    def acknowledge(self, run_id: str, sequence: int) -> None:
        """Keep how far a controller has stored the run. Raises RunNotFound, DiskFull.

        Where that cannot be written for want of room, one that is stored to its end goes: it would be the next to.
        """
        run = self.get(run_id)
        try:
            self._registry.acknowledge(run_id, min(sequence, run.last_sequence))
        except DiskFull:
            if not run.state.ended or sequence < run.last_sequence:
                raise
            self._retention.delete(run_id)

    def delete(self, run_id: str) -> None:
        """Remove an ended run and its journal. Raises RunNotFound, RunNotFinished."""
        if not self.get(run_id).state.ended:
            raise RunNotFinished(f"run {run_id} is still going on; cancel it first: backbench run cancel {run_id}")
        self._retention.delete(run_id)

    async def watch(self, run_id: str, from_sequence: int) -> AsyncGenerator[bytes, None]:
        """Every event from a number on, as journals keep them, then live, ending after the result.

        Raises RunNotFound, AgentStopping, TooManyCalls.
        """
        self._registry.get(run_id)
        try:
            reader = JournalReader(self._retention.path(run_id), from_sequence)
            shown: Progress | None = None
            while True:
                recording = self._recordings.get(run_id)
                news, last = (recording.news, recording.durable_sequence) if recording else (None, None)
                due = reader.next_sequence
                for sequence, payload, kind in whole_events(reader, last):
                    yield payload
                    if kind == "result":
                        return
                    due = sequence + 1
                if recording is None or news is None:
                    for payload in self._missing_end(run_id, due):
                        yield payload
                    return
                if self._closed:
                    raise AgentStopping("the agent is shutting down; watch again when it is back")
                if recording.progress is not None and recording.progress is not shown:
                    shown = recording.progress
                    yield progress_to_bytes(shown)
                await news.wait()
        except OSError as error:
            if not is_passing(error):
                raise
            message = f"run {run_id} cannot be read just now ({error.strerror}); watch it again in a moment"
            raise TooManyCalls(message) from error

    def close(self) -> None:
        """Close the journals of queued runs, and send away who watches them."""
        self._closed = True
        for recording in self._recordings.values():
            recording.journal.close()
            recording.tell()

    def _take_up(self, run: Run) -> Recording | None:
        """A queued run; or None, and the run is ended by what its journal says."""
        run_id = run.spec.run_id
        folder = self._retention.path(run_id)
        recording = Recording(run, Journal(folder, accept=is_event))
        damage = recording.journal.damage
        if damage:
            log.error("run %s: in its journal %s; it is kept up to there", run_id, damage)
        found = read_back(folder)
        recording.counts = found.counts
        self._recordings[run_id] = recording
        if found.result is not None:
            recording.journal.close()
            self._forget(recording, found.result.state, found.result.failure)
            return None
        if run.state is RunState.QUEUED and not found.started:
            if recording.journal.last_sequence == 0:
                recording.emit(StateChange(RunState.QUEUED))
            recording.sync()
            self._retention.begin(run_id)
            return recording
        recording.emit(LogLine("error", "the agent or the device stopped in the middle of this run"))
        if damage:
            recording.emit(LogLine("error", f"the journal is kept up to its damage: {damage}"))
        self.end(recording, RunState.INTERRUPTED, None)
        return None

    def _give_up(self, run: Run, error: OSError) -> None:
        """End a run whose journal cannot be gone on with; what can be read of it is there to be collected."""
        run_id = run.spec.run_id
        recording = self._recordings.pop(run_id, None)
        last = 0
        with contextlib.suppress(OSError):
            if recording is not None:
                recording.journal.close()
        with contextlib.suppress(OSError):
            last = read_back(self._retention.path(run_id)).last_sequence
        failure = write_failure(error, last)
        log.error("run %s cannot be taken up: %s", run_id, failure.message)
        self._registry.finish(run_id, RunState.FAILED, failure, max(1, last))  # 0 of 0 events would count as collected
        self._retention.end(run_id)

    def _forget(self, recording: Recording, state: RunState, failure: RunFailure | None) -> None:
        run_id = recording.spec.run_id
        self._registry.finish(run_id, state, failure, recording.journal.last_sequence)
        self._retention.end(run_id)
        del self._recordings[run_id]
        recording.tell()  # only now: who is told finds the run ended

    def _missing_end(self, run_id: str, due: int) -> list[bytes]:
        run = self._registry.get(run_id)
        events = missing_end(run, self._retention.path(run_id), due)
        if due <= run.last_sequence:
            log.error("run %s: its journal is damaged at event %d", run_id, due)
            with contextlib.suppress(DiskFull):
                # Who has stored this end has all that there is.
                self._registry.set_last_sequence(run_id, min(run.last_sequence, due + 1))
        return [event_to_bytes(event) for event in events]

    def _live(self, run: Run) -> Run:
        recording = self._recordings.get(run.spec.run_id)
        if recording is None:
            return run
        place = recording.progress.queue_position if recording.progress and recording.state is RunState.QUEUED else 0
        return replace(run, state=recording.state, queue_position=place, last_sequence=recording.durable_sequence)
