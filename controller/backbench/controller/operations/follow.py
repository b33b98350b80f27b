"""Watching a run to its end through cut connections, with every event stored exactly once.

The agent numbers a run's events; the store's log takes only the next number. A cut stream is opened again at the first
number that the log does not have, so what arrives twice is not stored twice and nothing is left out.

A run whose device cannot give its end any more is ended here, with what was stored of it and the reason: none stays
unfinished for ever.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from backbench.controller.client import AgentClient
from backbench.controller.client.calls import jittered
from backbench.controller.store import EventLog, RunRecord, Store
from backbench.domain.errors import (
    AgentUnreachable,
    BackbenchError,
    Cancelled,
    DeadlineExceeded,
    JournalCorrupt,
    RunNotFound,
    TimedOut,
    TooManyCalls,
    Unreachable,
)
from backbench.domain.event import Happening, LogLine, RunEvent, RunResult, StateChange
from backbench.domain.run import FailureReason, RunFailure, RunState

PATIENCE_S = 600.0
"""How long a run is waited for without any contact with its agent."""
SYNC_S = 1.0
"""Events are put onto the disk at least this often."""
_LONGEST_PAUSE_S = 10.0
# An attempt that lasted longer than it takes to find an agent unreachable had contact, unless nobody answered in it.
_CONTACT_S = 15.0
_FRUITLESS_STREAMS = 3
"""Streams of an ended run that bring nothing before it is believed that nothing will come."""
_CUTS = (Unreachable, TimedOut, Cancelled, TooManyCalls)

OnEvent = Callable[[RunEvent], None]
OnCut = Callable[[BackbenchError], None]


def follow(
    store: Store,
    client: AgentClient,
    run_id: str,
    on_event: OnEvent | None = None,
    on_cut: OnCut | None = None,
    patience_s: float = PATIENCE_S,
) -> RunRecord:
    """The finished run. Raises AgentUnreachable after `patience_s` without contact; the run itself goes on then.

    Raises StoreUnusable while another process follows it, RunNotFound where another device answers at the address.
    """
    record, last_sequence = store.run(run_id), None
    if record.document is None:
        with store.log(run_id) as log:
            if not store.is_finished(run_id):  # by another process, since the look above
                follower = _Follower(store, client, record, log, on_event or _ignore)
                _to_the_end(follower, on_cut, patience_s)
                log.sync()
                last_sequence = follower.last_sequence
            record = store.finish(run_id, log)
    # The agent keeps what is not acknowledged, so an agent that is gone by now does no harm. What another process has
    # finished is acknowledged again: it may have been killed before it could.
    with contextlib.suppress(BackbenchError):
        acknowledge(client, run_id, last_sequence)
    return record


def acknowledge(client: AgentClient, run_id: str, sequence: int | None = None) -> None:
    """Say that a run is stored here, up to a sequence number or to its end."""
    client.acknowledge_run(run_id, client.get_run(run_id).last_sequence if sequence is None else sequence)


def end_here(store: Store, run_id: str, state: RunState, reason: str) -> RunRecord:
    """End a run in this store alone, with what was stored of it. Raises StoreUnusable while it is being followed."""
    with store.log(run_id) as log:
        if not log.ended:
            _append_end(log, state, reason)
        return store.finish(run_id, log)


def _to_the_end(follower: _Follower, on_cut: OnCut | None, patience_s: float) -> None:
    lost_s: float | None = None
    pause_s = 0.2
    while not follower.ended:
        before, started_s = follower.received, time.monotonic()
        try:
            follower.watch()
            lost_s = None
            continue
        except _CUTS as error:
            now_s = time.monotonic()
            lasted = now_s - started_s > _CONTACT_S and not isinstance(error, TimedOut)
            if lost_s is None or follower.received > before or lasted:
                lost_s, pause_s = now_s, 0.2
                if on_cut is not None:
                    on_cut(error)
            if now_s - lost_s + pause_s > patience_s:
                raise follower.given_up(now_s - lost_s) from error
        time.sleep(jittered(pause_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class _Follower:
    """One run's events on their way into its log."""

    def __init__(self, store: Store, client: AgentClient, record: RunRecord, log: EventLog, on_event: OnEvent) -> None:
        self._store = store
        self._client = client
        self._record = record
        self._run_id = record.run_id
        self._log = log
        self._on_event = on_event
        self._synced_s = time.monotonic()
        self.received = 0
        self.last_sequence: int | None = None
        """The agent's number of the result; None where it did not come from the agent, or came earlier."""
        self._fruitless = 0

    @property
    def ended(self) -> bool:
        """Whether the log has the run's end."""
        return self._log.ended

    def watch(self) -> None:
        """Take events until the stream ends or is cut; AgentUnreachable when it ends too early."""
        try:
            if self._stream() and not self._log.ended:
                self._take_the_end()
        except RunNotFound as error:
            self._end_of_a_lost_run(error)
        except JournalCorrupt as error:
            self._end_of_a_damaged_run(error)

    def given_up(self, lost_s: float) -> AgentUnreachable:
        """What is said when nobody answers any more."""
        return AgentUnreachable(
            f"no contact with the agent at {self._client.address} for {lost_s:.0f} s; run {self._run_id} goes on if the"
            f" device does: `backbench run follow {self._run_id}` continues here",
            address=self._client.address,
            run_id=self._run_id,
        )

    def _stream(self) -> bool:
        """Take what one stream brings; False when it lasted so long that it is to be opened anew."""
        before = self.received
        try:
            with contextlib.closing(self._client.watch_run(self._run_id, self._log.next_sequence)) as events:
                for event in events:
                    self._take(event)
        except DeadlineExceeded:
            self._client.get_run(self._run_id)  # an agent that answers has not been lost
            return False
        finally:
            self._log.sync()
            self._fruitless = 0 if self.received > before else self._fruitless + 1
        return True

    def _take(self, event: RunEvent) -> None:
        self.received += 1
        if event.sequence is not None and not self._log.append(event):
            return
        if isinstance(event.event, StateChange):
            self._store.set_state(self._run_id, event.event.state)
        elif isinstance(event.event, RunResult):
            self.last_sequence = event.sequence
        now_s = time.monotonic()
        if now_s - self._synced_s >= SYNC_S:
            self._log.sync()
            self._synced_s = now_s
        self._on_event(event)

    def _take_the_end(self) -> None:
        """The end of a run of which the device has no more than is here, or cannot give more."""
        run = self._client.get_run(self._run_id)
        nothing_new = run.last_sequence < self._log.next_sequence or self._fruitless >= _FRUITLESS_STREAMS
        if not (run.state.ended and nothing_new):
            raise AgentUnreachable(f"the agent at {self._client.address} ended the stream of run {self._run_id} early")
        self._end(run.state, "the device has lost the end of what it recorded of this run", run.failure)

    def _end_of_a_lost_run(self, error: RunNotFound) -> None:
        known = self._record.device
        if known is not None and self._client.get_device().device_id != known.device_id:
            raise RunNotFound(
                f"another device answers at {self._client.address} than the one that has run {self._run_id}, or its"
                f" data was removed; to end the run here: backbench run cancel --here {self._run_id[-8:]}",
                run_id=self._run_id,
            ) from error
        reached = "no longer" if self._log.next_sequence > 1 else "never"
        self._end(RunState.INTERRUPTED, f"the device {reached} had this run, so this is all there is of it")

    def _end_of_a_damaged_run(self, error: JournalCorrupt) -> None:
        run = self._client.get_run(self._run_id)
        if not run.state.ended:
            raise error
        state = run.state if run.state is not RunState.DONE else RunState.FAILED
        failure = RunFailure(FailureReason.JOURNAL_DAMAGED, error.message)
        self._end(state, f"the journal on the device is damaged: {error.message}", run.failure or failure)

    def _end(self, state: RunState, reason: str, failure: RunFailure | None = None) -> None:
        for event in _append_end(self._log, state, reason, failure):
            self._on_event(event)


def _append_end(
    log: EventLog, state: RunState, reason: str, failure: RunFailure | None = None
) -> tuple[RunEvent, RunEvent]:
    """Append an end that no device gave.

    The result comes first: a kill in between leaves an end, and never a line where the device's next event belongs.
    """
    happenings: tuple[Happening, Happening] = (RunResult(state, failure), LogLine("error", reason))
    first, second = (
        RunEvent(sequence, time.perf_counter_ns(), time.time_ns(), happening)
        for sequence, happening in enumerate(happenings, log.next_sequence)
    )
    log.append(first)
    log.append(second)
    return first, second


def _ignore(event: RunEvent) -> None:
    """Nobody looks."""
