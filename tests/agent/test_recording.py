"""A run's events on their way: onto the disk, to who watches, and what a disk that refuses them does to the run."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbench.agent.journal import Journal, JournalReader
from backbench.agent.recording import Recording, run_result
from backbench.domain.event import Happening, LogLine, Progress, RunResult, StateChange
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import FailureReason, ModelRef, Owner, Run, RunSpec, RunState
from backbench.wire.event import event_from_bytes


class Disk:
    """In place of a journal's file: takes so many bytes and no more, or no order to sync."""

    def __init__(self, journal: Journal, room_bytes: int) -> None:
        self._file = journal._writer._file
        self.room_bytes = room_bytes
        journal._writer._file = self  # type: ignore[assignment]

    def write(self, data: memoryview) -> int:
        if self.room_bytes == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._file.write(data[: self.room_bytes])
        self.room_bytes -= taken
        return taken

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    with Journal(tmp_path / "run") as journal:
        yield Recording(Run(spec, RunState.QUEUED, 1, owner=Owner("ana")), journal)


def journalled(folder: Path) -> list[Happening]:
    return [event_from_bytes(payload).event for _, payload in JournalReader(folder / "run").read()]


def end(recording: Recording, state: RunState) -> RunResult:
    result = run_result(state, recording.failure, recording.counts, {}, {})
    recording.end(result)
    return result


async def test_news_comes_with_the_sync_and_progress_at_once(recording: Recording) -> None:
    news = recording.news
    recording.emit(StateChange(RunState.RUNNING))
    assert recording.state is RunState.RUNNING
    assert (recording.durable_sequence, news.is_set()) == (0, False)
    await recording.sync_news()
    assert (recording.durable_sequence, news.is_set()) == (1, True)
    news = recording.news
    recording.emit(Progress("measure", 0, 3, 10))
    assert news.is_set()
    assert (recording.durable_sequence, recording.journal.last_sequence) == (1, 1)


async def test_a_disk_that_is_full_asks_for_the_runs_end_keeps_whole_events_and_takes_the_result_when_it_can(
    recording: Recording, tmp_path: Path
) -> None:
    line = LogLine("info", "x" * 100)
    Disk(recording.journal, 500)
    for _ in range(10):
        recording.emit(line)
    assert recording.stop.is_set()
    assert recording.failure
    assert recording.failure.reason is FailureReason.DISK_FULL
    assert "everything up to event 3 is kept" in recording.failure.message
    result = end(recording, RunState.FAILED)
    assert journalled(tmp_path) == [line] * 3 + [LogLine("error", recording.failure.message), result]
    assert recording.durable_sequence == 5


async def test_a_disk_that_takes_not_even_the_result_ends_the_run_all_the_same(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.emit(StateChange(RunState.RUNNING))
    Disk(recording.journal, 0)
    monkeypatch.setattr(recording.journal, "begin_segment", lambda: None)
    recording.emit(StateChange(RunState.FINISHING))
    end(recording, RunState.FAILED)
    assert recording.state is RunState.FAILED
    assert journalled(tmp_path) == [StateChange(RunState.RUNNING)]


async def test_a_disk_that_does_not_sync_ends_the_run_for_what_it_is(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(recording.journal, "sync", refuse)
    recording.emit(StateChange(RunState.RUNNING))
    await asyncio.wait_for(recording.sync_news(), 10)
    assert recording.durable_sequence == 0
    assert recording.failure
    assert recording.failure.reason is FailureReason.JOURNAL_DAMAGED
    assert "Input/output error" in recording.failure.message
