"""Watching a run to its end through cut connections, with every event stored exactly once.

The agent numbers a run's events; the store's log takes only the next number. A cut stream is opened again at the first
number that the log does not have, so what arrives twice is not stored twice and nothing is left out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from backbench.controller.client import AgentClient
from backbench.controller.client.calls import jittered
from backbench.controller.store import EventLog, RunRecord, Store
from backbench.domain.errors import AgentUnreachable, BackbenchError, Cancelled, TimedOut, Unreachable
from backbench.domain.event import RunEvent, StateChange

PATIENCE_S = 600.0
"""How long a run is waited for without any contact with its agent."""
SYNC_S = 1.0
"""Events are put onto the disk at least this often."""
_LONGEST_PAUSE_S = 10.0
# An attempt that lasted longer than it takes to find an agent unreachable had contact.
_CONTACT_S = 15.0
_CUTS = (Unreachable, TimedOut, Cancelled)

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
    """The finished run. Raises AgentUnreachable after `patience_s` without contact; the run itself goes on then."""
    record = store.run(run_id)
    if record.document is not None:
        return record
    with store.log(run_id) as log:
        follower = _Follower(store, client, run_id, log, on_event or _ignore)
        lost_s: float | None = None
        pause_s = 0.2
        while not log.ended:
            before, started_s = follower.received, time.monotonic()
            try:
                follower.watch()
                continue
            except _CUTS as error:
                now_s = time.monotonic()
                if lost_s is None or follower.received > before or now_s - started_s > _CONTACT_S:
                    lost_s, pause_s = now_s, 0.2
                    if on_cut is not None:
                        on_cut(error)
                if now_s - lost_s + pause_s > patience_s:
                    raise _given_up(client.address, run_id, now_s - lost_s) from error
            time.sleep(jittered(pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        log.sync()
        last = log.next_sequence - 1
    record = store.finish(run_id)
    # The agent keeps what is not acknowledged, so an agent that is gone by now does no harm.
    with contextlib.suppress(BackbenchError):
        client.acknowledge_run(run_id, last)
    return record


class _Follower:
    """One run's events on their way into its log."""

    def __init__(self, store: Store, client: AgentClient, run_id: str, log: EventLog, on_event: OnEvent) -> None:
        self._store = store
        self._client = client
        self._run_id = run_id
        self._log = log
        self._on_event = on_event
        self._synced_s = time.monotonic()
        self.received = 0

    def watch(self) -> None:
        """Take events until the stream ends or is cut; AgentUnreachable when it ends too early."""
        try:
            with contextlib.closing(self._client.watch_run(self._run_id, self._log.next_sequence)) as events:
                for event in events:
                    self._take(event)
        finally:
            self._log.sync()
        if not self._log.ended:
            raise AgentUnreachable(f"the agent at {self._client.address} ended the stream of run {self._run_id} early")

    def _take(self, event: RunEvent) -> None:
        self.received += 1
        if event.sequence is not None and not self._log.append(event):
            return
        if isinstance(event.event, StateChange):
            self._store.set_state(self._run_id, event.event.state)
        now_s = time.monotonic()
        if now_s - self._synced_s >= SYNC_S:
            self._log.sync()
            self._synced_s = now_s
        self._on_event(event)


def _given_up(address: str, run_id: str, lost_s: float) -> AgentUnreachable:
    return AgentUnreachable(
        f"no contact with the agent at {address} for {lost_s:.0f} s; run {run_id} goes on if the device does:"
        f" `backbench run follow {run_id}` continues here",
        address=address,
        run_id=run_id,
    )


def _ignore(event: RunEvent) -> None:
    """Nobody looks."""
