"""Runs, one at a time: queued, carried out in their order, cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from backbench.agent.leases import Leases
from backbench.agent.recording import Note, Recording, is_full, write_failure
from backbench.agent.run_queue import RunQueue, Waiting
from backbench.agent.run_store import RunStore
from backbench.agent.supervisor import Stopped
from backbench.agent.turns import Turns
from backbench.domain.errors import AgentStopping, BackbenchError, DeviceBusy, InvalidRunSpec, RunNotFound
from backbench.domain.event import Happening, Progress
from backbench.domain.run import FailureReason, Owner, Run, RunFailure, RunSpec, RunState

log = logging.getLogger(__name__)

Emit = Callable[[Happening | Note], None]


class Performer(Protocol):
    """Carries out one run, reporting through `emit`; None when everything was done. Raises Stopped."""

    async def __call__(self, spec: RunSpec, emit: Emit, stop: asyncio.Event, turns: Turns) -> RunFailure | None:
        """Perform the run, each of its launches in a turn of its own."""


class Runs:
    """The queue, and what is going on. Everything that is kept of runs is in `store`."""

    def __init__(self, store: RunStore, perform: Performer, queue_length: int, leases: Leases) -> None:
        self.store = store
        self._perform = perform
        self._leases = leases
        self._queue = RunQueue(queue_length)
        self._running: tuple[str, ...] = ()
        self._changed = asyncio.Event()
        self._expiry: asyncio.TimerHandle | None = None
        self._stopping = False
        leases.on_change = self._lease_changed

    def recover(self) -> None:
        """After a start: what was going on becomes interrupted, what was queued is queued again, under no lease."""
        for recording in self.store.recover():
            self._queue.add(Waiting(recording.spec, recording.owner, "", time.monotonic()))
        self._turn_over()

    def known(self, spec: RunSpec) -> Run | None:
        """The run that has this id already. Raises InvalidRunSpec when it is another one."""
        try:
            run = self.store.get(spec.run_id)
        except RunNotFound:
            return None
        if run.spec != spec:
            raise InvalidRunSpec(f"run {spec.run_id} exists with another specification; make a new run id")
        return run

    def submit(self, spec: RunSpec, owner: Owner, lease_id: str = "", epoch: int = 0) -> Run:
        """Queue a run, under a lease or under none, or return the one that has this id already.

        Raises InvalidRunSpec, LeaseNotFound, StaleEpoch, QueueFull, ResultsNotCollected, DiskFull, AgentStopping.
        """
        if (known := self.known(spec)) is not None:
            return known
        if self._stopping:
            raise AgentStopping("the agent is shutting down; try again when it is back")
        if lease_id:
            self._leases.held(lease_id, epoch)
        waiting = Waiting(spec, owner, lease_id, time.monotonic())
        self._queue.check(waiting, self._leases.current_id)
        self.store.begin(Run(spec, RunState.QUEUED, time.time_ns(), owner=owner))
        self._queue.add(waiting)
        self._turn_over()
        return self.store.get(spec.run_id)

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the runs that are going on."""
        return self._running

    @property
    def queued(self) -> tuple[str, ...]:
        """The ids of the runs that wait, the next one first."""
        return tuple(waiting.spec.run_id for waiting in self._queue.order(self._leases.current_id))

    def uses(self, sha256: str) -> bool:
        """Whether a run that has not ended needs this artifact."""
        return any(sha256 in recording.spec.artifacts for recording in self.store.recordings.values())

    def check_idle(self, owner: Owner) -> None:
        """Raises DeviceBusy while a run of somebody else is going on."""
        for run_id in self._running:
            other = self.store.recordings[run_id].owner
            if other != owner:
                message = f"run {run_id} of {other.name} is going on; try again when it has ended"
                raise DeviceBusy(message, holder=other.name, run_id=run_id)

    async def cancel(self, run_id: str, state: RunState = RunState.CANCELLED) -> Run:
        """End a run that has not ended, with what it measured kept; returns it as it is after that."""
        recording = self.store.recordings.get(run_id)
        if recording is not None and run_id in self._queue:
            if self._stopping:  # its journal may be closed already
                raise AgentStopping(f"the agent is shutting down; cancel run {run_id} when it is back")
            self._queue.remove(run_id)
            self.store.end(recording, state, None)
            self._turn_over()
        elif recording is not None:
            recording.stop_state = state
            recording.stop.set()
            while run_id in self.store.recordings:
                await recording.news.wait()
        return self.store.get(run_id)

    async def serve(self) -> None:
        """Carry out queued runs, one after the other, or a group's runs by turns, until cancelled."""
        while True:
            changed = self._changed
            members, wait_s = self._queue.head(self._leases.current_id, time.monotonic())
            if members and not self._stopping:
                await self._go([each.spec.run_id for each in members])
            else:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), wait_s)

    async def stop(self) -> None:
        """Interrupt what is going on; queued runs stay queued for the next start."""
        self._stopping = True
        await asyncio.gather(*(self.cancel(run_id, RunState.INTERRUPTED) for run_id in self._running))
        if self._expiry is not None:
            self._expiry.cancel()
        self.store.close()

    async def _go(self, members: Sequence[str]) -> None:
        turns = Turns(members[::-1])  # the first turn makes ready; so the first launches are in order
        recordings = [self.store.recordings[run_id] for run_id in members]
        for recording in recordings:
            self._queue.remove(recording.spec.run_id)
            recording.progress = None
        self._running = tuple(members)
        self._turn_over()
        carried_out = (self._carry_out(recording, turns) for recording in recordings)
        ended = await asyncio.gather(*carried_out, return_exceptions=True)
        for run_id, error in zip(members, ended, strict=True):
            if isinstance(error, Exception):  # the runs behind it in the queue are not to wait for ever
                log.error("run %s could not be brought to its end", run_id, exc_info=error)

    async def _carry_out(self, recording: Recording, turns: Turns) -> None:
        spec = recording.spec
        keeping = asyncio.ensure_future(self.store.keep(recording))
        log.info("run %s starts: %s on %s", spec.run_id, spec.model.name, spec.backend.name)
        state, failure = RunState.DONE, None
        try:
            self.store.start(recording)
            failure = await self._perform(
                spec, lambda happening: self.store.emit(recording, happening), recording.stop, turns
            )
            state = RunState.DONE if failure is None else RunState.FAILED
        except Stopped:
            state = recording.stop_state
        except asyncio.CancelledError:
            state = RunState.INTERRUPTED
            raise
        except BackbenchError as error:
            state, failure = RunState.FAILED, RunFailure(FailureReason.INVALID_INPUT, error.message)
        except Exception as error:  # noqa: BLE001 - it ends the run, and not the agent
            state, failure = RunState.FAILED, _failure_of(error, recording)
        finally:
            keeping.cancel()
            self._running = tuple(run_id for run_id in self._running if run_id != spec.run_id)
            self.store.end(recording, state, failure)
            self._turn_over()
            await turns.retire(spec.run_id)

    def _lease_changed(self) -> None:
        """Look again who may go, now and when the lease runs out."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._leases.current is not None and not self._stopping:
            self._expiry = asyncio.get_running_loop().call_later(self._leases.left_s, self._lease_changed)
        self._turn_over()

    def _turn_over(self) -> None:
        """The queue, what is going on or the lease has changed: wake who decides, and show who waits their places."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for place, waiting in enumerate(self._queue.order(self._leases.current_id)):
            progress = Progress("queued", queue_position=place + len(self._running), holder=self._holder(waiting))
            recording = self.store.recordings[waiting.spec.run_id]
            if progress != recording.progress:
                recording.emit(progress)

    def _holder(self, waiting: Waiting) -> str:
        """Who uses the device while this one waits; "" for nobody."""
        lease = self._leases.current
        if lease is not None and waiting.lease_id != lease.lease_id:
            return lease.holder
        return self.store.recordings[self._running[0]].owner.name if self._running else ""


def _failure_of(error: Exception, recording: Recording) -> RunFailure:
    """What it means for a run that the agent could not go on with it."""
    if isinstance(error, OSError) and is_full(error):  # for a worker's folder, say
        failure = write_failure(error, recording.journal.last_sequence)
        recording.fail(failure)
        return failure
    log.error("run %s: a mistake in the agent", recording.spec.run_id, exc_info=error)
    return RunFailure(FailureReason.AGENT_BUG, "a mistake in the agent; its log has the details")
