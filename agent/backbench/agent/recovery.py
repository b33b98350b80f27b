"""What is found on the disk of a run: what was asked, how far it got, how a damaged one ends."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from backbench.agent.journal import JournalReader, last_event
from backbench.agent.recording import count_frames, run_result
from backbench.agent.registry import Registry
from backbench.domain.errors import BackbenchError, JournalCorrupt, RunNotFound
from backbench.domain.event import Happening, LogLine, RunEvent, RunResult, StateChange
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import is_run_id
from backbench.domain.run import FailureReason, Run, RunFailure, RunState
from backbench.wire.event import event_from_bytes, event_to_bytes, kind_in_bytes
from backbench.wire.records import RecordWriter, read_records, sync_folder
from backbench.wire.run import run_from_bytes, run_to_bytes

log = logging.getLogger(__name__)

_KEPT = "run.rec"
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Why a journal cannot be read just now, which says nothing of the journal."""


def keep_run(folder: Path, run: Run) -> None:
    """Write what was asked beside the journal, so that a lost registry loses no run. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / _KEPT).unlink(missing_ok=True)
    with RecordWriter(folder / _KEPT) as writer:
        writer.append(1, run_to_bytes(run))
    sync_folder(folder.parent)


def adopt(folder: Path, registry: Registry) -> None:
    """Put runs that lie in `folder` but are not in the registry there, oldest first."""
    found = []
    for path in folder.iterdir():
        if not is_run_id(path.name) or _is_known(registry, path.name):
            continue
        run = _kept_run(path)
        if run is None and _is_bare(path):  # one that was being begun; nobody was told that it is
            shutil.rmtree(path, ignore_errors=True)
        elif run is None:
            log.error("%s belongs to no known run, and does not say what was asked; it is left alone", path)
        else:
            found.append(run)
    for run in sorted(found, key=lambda run: run.created_unix_ns):
        log.warning("run %s is taken from its folder", run.spec.run_id)
        registry.add(run)


def is_event(payload: bytes) -> bool:
    """Whether this is an event that this version knows."""
    try:
        event_from_bytes(payload)
    except (BackbenchError, ValueError):
        return False
    return True


@dataclass
class Found:
    """How far a run got by its journal: `result` where it ended, `started` where it left the queue."""

    last_sequence: int = 0
    result: RunResult | None = None
    started: bool = False
    counts: dict[int, int] = field(default_factory=dict)


def read_back(folder: Path) -> Found:
    """Everything in a journal up to its end or the first damage."""
    found = Found()
    for sequence, payload, _ in whole_events(JournalReader(folder)):
        if not is_event(payload):
            break
        found.last_sequence = sequence
        happening = event_from_bytes(payload).event
        if isinstance(happening, FrameBlock):
            count_frames(found.counts, happening)
        elif isinstance(happening, StateChange):
            found.started = found.started or happening.state is not RunState.QUEUED
        elif isinstance(happening, RunResult):
            found.result = happening
    return found


def whole_events(reader: JournalReader, last: int | None = None) -> Iterator[tuple[int, bytes, str]]:
    """The next events as (sequence, payload, kind), up to number `last`, the end, or the first that cannot be read.

    Raises OSError where it is not the journal that keeps them from being read; see `is_passing`.
    """
    try:
        while events := reader.read(last):
            for sequence, payload in events:
                kind = kind_in_bytes(payload)
                if kind is None:
                    return
                yield sequence, payload, kind
    except OSError as error:
        if is_passing(error):
            raise
        log.warning("a journal cannot be read: %s", error)


def is_passing(error: OSError) -> bool:
    """Whether this process or the device has too much in hand, so that the same may work in a moment."""
    return error.errno in _PASSING


def missing_end(run: Run, folder: Path, due: int) -> tuple[RunEvent, ...]:
    """How an ended run ends for who got no result by reading to event `due`: always with a result.

    Who asks behind the end gets the run's result, or what the registry knows where the disk did not take that; who
    stands before damage gets a failure that names it.
    """
    if due <= run.last_sequence:
        message = (
            f"the run's journal is damaged on the device at event {due} of {run.last_sequence}; what was before is kept"
        )
        failure = RunFailure(FailureReason.JOURNAL_DAMAGED, message)
        result = run_result(RunState.FAILED, failure, read_back(folder).counts, {}, {})
        return _event(due, LogLine("error", message)), _event(due + 1, result)
    newest = last_event(folder)
    if newest is not None and kind_in_bytes(newest) == "result":
        return (replace(event_from_bytes(newest), sequence=due),)
    return (_event(due, run_result(run.state, run.failure, read_back(folder).counts, {}, {})),)


def progress_to_bytes(happening: Happening) -> bytes:
    """An event without a number."""
    return event_to_bytes(_event(None, happening))


def _event(sequence: int | None, happening: Happening) -> RunEvent:
    return RunEvent(sequence, time.perf_counter_ns(), time.time_ns(), happening)


def _kept_run(folder: Path) -> Run | None:
    try:
        for _, payload, _ in read_records(folder / _KEPT, expected=1):
            run = run_from_bytes(payload)
            return run if run.spec.run_id == folder.name else None
    except (JournalCorrupt, OSError) as error:
        log.warning("%s cannot be read: %s", folder / _KEPT, error)
    return None


def _is_bare(folder: Path) -> bool:
    """Whether this is a run's folder in which nothing was journalled."""
    with contextlib.suppress(OSError):
        return all(path.name == _KEPT or path.stat().st_size == 0 for path in folder.iterdir())
    return False


def _is_known(registry: Registry, run_id: str) -> bool:
    try:
        registry.get(run_id)
    except RunNotFound:
        return False
    except JournalCorrupt:
        pass
    return True
