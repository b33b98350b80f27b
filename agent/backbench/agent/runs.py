"""Runs, one at a time: taken in order, carried out, journalled, watched, cancelled, kept until deleted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from backbench.agent.identity import read_conditions
from backbench.agent.journal import Journal, JournalReader
from backbench.agent.registry import Registry
from backbench.agent.supervisor import Stopped
from backbench.agent.turns import Turns
from backbench.domain.errors import BackbenchError, InvalidRunSpec, QueueFull, RunNotFinished, RunNotFound
from backbench.domain.event import Happening, LogLine, Progress, RunEvent, RunResult, StateChange
from backbench.domain.frame import DROPPED, OUTCOME_NUMBERS, FrameBlock, FrameOutcome, FrameTag
from backbench.domain.run import FailureReason, Run, RunFailure, RunSpec, RunState
from backbench.wire.event import event_from_bytes, event_to_bytes

log = logging.getLogger(__name__)

Emit = Callable[[Happening], None]
GROUP_WAIT_S = 10.0
"""How long the runs of a group wait for those of it that are not submitted yet."""
SYNC_S = 1.0
"""A journal is put onto the disk this often; a power cut loses no more than this and the newest block."""


class Performer(Protocol):
    """Carries out one run, reporting through `emit`; None when everything was done. Raises Stopped."""

    async def __call__(self, spec: RunSpec, emit: Emit, stop: asyncio.Event, turns: Turns) -> RunFailure | None:
        """Perform the run, each of its launches in a turn of its own."""


@dataclass
class _Active:
    """What is kept in memory of a run that has not ended."""

    journal: Journal
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stop_state: RunState = RunState.CANCELLED
    progress: Progress | None = None
    version: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    counts: dict[int, int] = field(default_factory=dict)
    conditions_start: Mapping[str, str] = field(default_factory=dict)


class Runs:
    """The queue and the journals, in `root/runs`."""

    def __init__(self, root: Path, registry: Registry, perform: Performer, queue_length: int) -> None:
        self._root = root / "runs"
        self._registry = registry
        self._perform = perform
        self._queue_length = queue_length
        self._queue: list[str] = []
        self._active: dict[str, _Active] = {}
        self._wake = asyncio.Event()
        self._running: set[str] = set()
        self._stopping = False

    def recover(self) -> None:
        """After a start: what was going on becomes interrupted, what was queued is queued again."""
        for run in reversed(self._registry.list()):
            if run.state is RunState.QUEUED:
                self._activate(run.spec.run_id)
                self._queue.append(run.spec.run_id)
            elif not run.state.ended:
                self._recover_run(run.spec.run_id)
        self._wake.set()

    def submit(self, spec: RunSpec) -> Run:
        """Queue a run, or return the one that has this id already. Raises InvalidRunSpec, QueueFull."""
        try:
            known = self.get(spec.run_id)
        except RunNotFound:
            known = None
        if known is not None:
            if known.spec != spec:
                raise InvalidRunSpec(f"run {spec.run_id} exists with another specification; make a new run id")
            return known
        if len(self._queue) >= self._queue_length:
            raise QueueFull(f"{self._queue_length} runs are waiting already; try again when one has ended")
        run = self._registry.add(spec)
        self._activate(spec.run_id)
        self._queue.append(spec.run_id)
        self._emit(spec.run_id, StateChange(RunState.QUEUED))
        self._wake.set()
        return self._with_position(run)

    def get(self, run_id: str) -> Run:
        """One run. Raises RunNotFound."""
        return self._with_position(self._registry.get(run_id))

    def list(self) -> tuple[Run, ...]:
        """Every run, newest first."""
        return tuple(self._with_position(run) for run in self._registry.list())

    def uses(self, sha256: str) -> bool:
        """Whether a run that has not ended needs this artifact."""
        return any(sha256 in self._registry.get(run_id).spec.artifacts for run_id in self._active)

    async def cancel(self, run_id: str, state: RunState = RunState.CANCELLED) -> Run:
        """End a run that has not ended, with what it measured kept; returns it as it is after that."""
        active = self._active.get(run_id)
        if active is None:
            return self.get(run_id)
        if run_id in self._queue:
            self._queue.remove(run_id)
            await self._finish(run_id, state, None)
            return self.get(run_id)
        active.stop_state = state
        active.stop.set()
        async with active.changed:
            await active.changed.wait_for(lambda: run_id not in self._active)
        return self.get(run_id)

    def acknowledge(self, run_id: str, sequence: int) -> None:
        """Keep how far a controller has stored the run. Raises RunNotFound."""
        self._registry.get(run_id)
        self._registry.acknowledge(run_id, sequence)

    def delete(self, run_id: str) -> None:
        """Remove an ended run and its journal. Raises RunNotFound, RunNotFinished."""
        if not self.get(run_id).state.ended:
            raise RunNotFinished(f"run {run_id} is still going on; cancel it first: backbench run cancel {run_id}")
        self._registry.delete(run_id)
        shutil.rmtree(self._folder(run_id), ignore_errors=True)

    async def watch(self, run_id: str, from_sequence: int) -> AsyncIterator[RunEvent]:
        """Every event from a number on, then live, ending after the result. Raises RunNotFound."""
        self._registry.get(run_id)
        reader = JournalReader(self._folder(run_id), from_sequence)
        shown: Progress | None = None
        while True:
            active = self._active.get(run_id)
            seen = active.version if active else 0
            for _, payload in reader.read():
                yield event_from_bytes(payload)
            if active is None:
                return
            if active.progress is not None and active.progress is not shown:
                shown = active.progress
                yield self._event(None, shown)
            async with active.changed:
                while active.version == seen and run_id in self._active:
                    await active.changed.wait()

    async def serve(self) -> None:
        """Carry out queued runs, one after the other, or a group's runs by turns, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue and not self._stopping:
                members = await self._members()
                for run_id in members:
                    self._queue.remove(run_id)
                turns = Turns(members[::-1])  # the first turn makes ready; so the first launches are in order
                carried_out = (self._carry_out(run_id, turns) for run_id in members)
                ended = await asyncio.gather(*carried_out, return_exceptions=True)
                for run_id, error in zip(members, ended, strict=True):
                    if isinstance(error, Exception):  # the runs behind it in the queue are not to wait for ever
                        log.error("run %s could not be brought to its end: %s", run_id, error)

    async def _members(self) -> Sequence[str]:
        """The run at the head of the queue with the others of its group; waits a while for those not yet submitted."""
        give_up_s = time.monotonic() + GROUP_WAIT_S
        while self._queue:
            spec = self._registry.get(self._queue[0]).spec
            if not spec.group_id:
                return self._queue[:1]
            members = [each for each in self._queue if self._registry.get(each).spec.group_id == spec.group_id]
            left_s = give_up_s - time.monotonic()
            if len(members) >= spec.group_size or left_s <= 0:
                return members
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left_s)
            self._wake.clear()
        return []

    async def stop(self) -> None:
        """Interrupt the run that is going on; queued ones stay queued for the next start."""
        self._stopping = True
        await asyncio.gather(*(self.cancel(run_id, RunState.INTERRUPTED) for run_id in self._running))
        for active in self._active.values():
            active.journal.close()

    async def _carry_out(self, run_id: str, turns: Turns) -> None:
        spec = self._registry.get(run_id).spec
        active = self._active[run_id]
        self._running.add(run_id)
        active.conditions_start = read_conditions()
        syncing = asyncio.ensure_future(self._sync(active))
        log.info("run %s starts: %s on %s", run_id, spec.model.name, spec.backend.name)
        state, failure = RunState.DONE, None
        try:
            failure = await self._perform(spec, lambda happening: self._emit(run_id, happening), active.stop, turns)
            state = RunState.DONE if failure is None else RunState.FAILED
        except Stopped:
            state = active.stop_state
        except asyncio.CancelledError:
            state = RunState.INTERRUPTED
            raise
        except BackbenchError as error:
            state, failure = RunState.FAILED, RunFailure(FailureReason.INVALID_INPUT, error.message)
        except Exception:
            log.exception("run %s: a mistake in the agent", run_id)
            message = "a mistake in the agent; its log has the details"
            state, failure = RunState.FAILED, RunFailure(FailureReason.AGENT_BUG, message)
        finally:
            syncing.cancel()
            await turns.retire(run_id)
            await self._finish(run_id, state, failure)
            self._running.discard(run_id)
            log.info("run %s is %s%s", run_id, state.value, f": {failure.message}" if failure else "")

    async def _finish(self, run_id: str, state: RunState, failure: RunFailure | None) -> None:
        active = self._active[run_id]
        self._emit(run_id, self._result(active, state, failure))
        self._registry.finish(run_id, state, failure, active.journal.last_sequence)
        active.journal.close()
        del self._active[run_id]
        async with active.changed:
            active.changed.notify_all()

    def _result(self, active: _Active, state: RunState, failure: RunFailure | None) -> RunResult:
        completed, errored, *dropped = (
            active.counts.get(OUTCOME_NUMBERS[outcome], 0)
            for outcome in (FrameOutcome.COMPLETED, FrameOutcome.ERRORED, *DROPPED)
        )
        return RunResult(
            state,
            failure,
            sum(active.counts.values()),
            completed,
            sum(dropped),
            errored,
            active.conditions_start,
            read_conditions(),
        )

    def _recover_run(self, run_id: str) -> None:
        active = self._activate(run_id)
        for _, payload in JournalReader(self._folder(run_id)).read():
            happening = event_from_bytes(payload).event
            if isinstance(happening, FrameBlock):
                _count(active, happening)
            elif isinstance(happening, RunResult):
                self._registry.finish(run_id, happening.state, happening.failure, active.journal.last_sequence)
                active.journal.close()
                del self._active[run_id]
                return
        self._emit(run_id, LogLine("error", "the agent or the device stopped in the middle of this run"))
        self._emit(run_id, self._result(active, RunState.INTERRUPTED, None))
        self._registry.finish(run_id, RunState.INTERRUPTED, None, active.journal.last_sequence)
        active.journal.close()
        del self._active[run_id]

    def _activate(self, run_id: str) -> _Active:
        active = _Active(Journal(self._folder(run_id)))
        self._active[run_id] = active
        return active

    def _emit(self, run_id: str, happening: Happening) -> None:
        active = self._active[run_id]
        if isinstance(happening, Progress):
            active.progress = happening
        else:
            if isinstance(happening, StateChange):
                self._registry.set_state(run_id, happening.state)
            elif isinstance(happening, FrameBlock):
                _count(active, happening)
            active.journal.append(event_to_bytes(self._event(active.journal.last_sequence + 1, happening)))
        active.version += 1
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(_notify(active)))

    @staticmethod
    def _event(sequence: int | None, happening: Happening) -> RunEvent:
        return RunEvent(sequence, time.perf_counter_ns(), time.time_ns(), happening)

    @staticmethod
    async def _sync(active: _Active) -> None:
        while True:
            await asyncio.sleep(SYNC_S)
            active.journal.sync()

    def _with_position(self, run: Run) -> Run:
        active = self._active.get(run.spec.run_id)
        if active is None:
            return run
        waiting = self._queue.index(run.spec.run_id) if run.spec.run_id in self._queue else None
        position = 0 if waiting is None else waiting + len(self._running)
        return replace(run, queue_position=position, last_sequence=active.journal.last_sequence)

    def _folder(self, run_id: str) -> Path:
        return self._root / run_id


async def _notify(active: _Active) -> None:
    async with active.changed:
        active.changed.notify_all()


def _count(active: _Active, block: FrameBlock) -> None:
    for outcome, tag in zip(block.outcome, block.tags, strict=True):
        if not tag & FrameTag.WARM_UP:
            active.counts[outcome] = active.counts.get(outcome, 0) + 1
