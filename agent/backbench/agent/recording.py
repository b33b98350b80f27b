"""A run that has not ended: its journal as it grows, and the news of it for those who watch."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from backbench.agent.clocks import ClocksSet
from backbench.agent.journal import Journal
from backbench.domain.event import CoolGate, Happening, LogLine, Progress, RunEvent, RunResult, StateChange
from backbench.domain.frame import DROPPED, OUTCOME_NUMBERS, FrameBlock, FrameOutcome, FrameTag
from backbench.domain.run import FailureReason, Owner, Run, RunFailure, RunState
from backbench.wire.event import event_to_bytes

log = logging.getLogger(__name__)

_LONGEST_TEXT = 2000
Note = CoolGate | ClocksSet
"""What is told of a run once, in its result."""
MAKE_ROOM = "fetch results with `backbench run collect --device NAME`, or delete files on the device"
"""Collected runs go by themselves where their room is needed."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Recording:
    """Everything that happens in one run goes through `emit`.

    Watchers are shown what is on the disk, so that nobody has seen what a power cut can take. They wait for `news`.
    A journal that the disk does not take any more ends the run: `failure` says so and `stop` is set.
    """

    def __init__(self, run: Run, journal: Journal) -> None:
        self.spec = run.spec
        self.owner = run.owner or Owner("local")
        self.state = run.state
        self.journal = journal
        self.stop = asyncio.Event()
        self.stop_state = RunState.CANCELLED
        self.progress: Progress | None = None
        self.failure: RunFailure | None = None
        self.counts: dict[int, int] = {}
        self.begun_ns = time.perf_counter_ns()
        self.conditions_start: Mapping[str, str] = {}
        self._cool_gate: CoolGate | None = None
        self._clocks_set: Mapping[str, str] = {}
        self.durable_sequence = 0
        self.news = asyncio.Event()
        self._unsynced = asyncio.Event()

    def emit(self, happening: Happening | Note) -> None:
        """Journal an event, show it if it is progress, keep a note for the end. Never raises: see `failure`."""
        if isinstance(happening, CoolGate):
            self._cool_gate = happening
            return
        if isinstance(happening, ClocksSet):
            self._clocks_set = happening.changes
            return
        if isinstance(happening, Progress):
            self.progress = happening
            self.tell()
            return
        if self.failure is not None:
            return
        try:
            self._append(happening)
        except OSError as error:
            self.fail(write_failure(error, self.journal.last_sequence))
        self._unsynced.set()

    def fail(self, failure: RunFailure) -> None:
        """Take no more events, and ask for the end of the run."""
        if self.failure is None:
            self.failure = failure
            self.stop.set()

    def tell(self) -> None:
        """Wake those who wait for `news`; who waits next waits for the next."""
        told, self.news = self.news, asyncio.Event()
        told.set()

    def sync(self) -> None:
        """Put everything onto the disk and show it. Raises OSError."""
        self.journal.sync()
        self.durable_sequence = self.journal.last_sequence
        self.tell()

    async def sync_news(self) -> None:
        """Wait for an event, then put it onto the disk in another thread and show it."""
        await self._unsynced.wait()
        self._unsynced.clear()
        last = self.journal.last_sequence
        try:
            await asyncio.to_thread(self.journal.sync)
        except OSError as error:
            self.fail(write_failure(error, self.durable_sequence))
            return
        self.durable_sequence = last
        self.tell()

    def end(self, result: RunResult) -> None:
        """Write the run's end and close the journal. Never raises: what the disk does not take is only logged."""
        result = replace(result, cool_gate=self._cool_gate, clocks_set=self._clocks_set)
        try:
            if self.failure is not None:  # where the disk refused an event, half of it may lie at the file's end
                self.journal.begin_segment()
                self._append(LogLine("error", self.failure.message))
            self._append(result)
            self.journal.close()
        except OSError as error:
            log.warning("run %s: its end cannot be journalled: %s", self.spec.run_id, error)
            with contextlib.suppress(OSError):
                self.journal.close()
        self.state = result.state
        self.durable_sequence = self.journal.last_sequence

    def _append(self, happening: Happening) -> None:
        event = RunEvent(self.journal.last_sequence + 1, time.perf_counter_ns(), time.time_ns(), happening)
        self.journal.append(event_to_bytes(event))
        if isinstance(happening, StateChange):
            self.state = happening.state
        elif isinstance(happening, FrameBlock):
            count_frames(self.counts, happening)


def count_frames(counts: dict[int, int], block: FrameBlock) -> None:
    """Add a block's timed frames to the counts by outcome."""
    for outcome, tag in zip(block.outcome, block.tags, strict=True):
        if not tag & FrameTag.WARM_UP:
            counts[outcome] = counts.get(outcome, 0) + 1


def run_result(
    state: RunState,
    failure: RunFailure | None,
    counts: Mapping[int, int],
    conditions_start: Mapping[str, str],
    conditions_end: Mapping[str, str],
) -> RunResult:
    """The end of a run with these counts of timed frames by outcome."""
    completed, errored, *dropped = (
        counts.get(OUTCOME_NUMBERS[outcome], 0) for outcome in (FrameOutcome.COMPLETED, FrameOutcome.ERRORED, *DROPPED)
    )
    return RunResult(
        state, failure, sum(counts.values()), completed, sum(dropped), errored, conditions_start, conditions_end
    )


def storable(failure: RunFailure) -> RunFailure:
    """The failure as it can be written and sent, whatever words a worker had for it."""
    return replace(
        failure, message=_text(failure.message), log_tail=tuple(_text(line) for line in failure.log_tail)
    )  # fmt: skip


def _text(words: str) -> str:
    """At most _LONGEST_TEXT characters, and none that UTF-8 cannot carry."""
    return words[:_LONGEST_TEXT].encode("utf-8", "replace").decode()


def is_full(error: OSError) -> bool:
    """Whether there was no room on the disk."""
    return error.errno in _FULL


def write_failure(error: OSError, last_sequence: int) -> RunFailure:
    """What it means for a run that its journal could not be written."""
    kept = f"everything up to event {last_sequence} is kept"
    if is_full(error):
        return RunFailure(
            FailureReason.DISK_FULL,
            f"the device's disk is full; {kept}; {MAKE_ROOM}, then run it again",
        )
    return RunFailure(
        FailureReason.JOURNAL_DAMAGED,
        f"the run's journal cannot be written ({error.strerror}); {kept}; look at the disk",
    )
