"""What is kept of runs: on full disks and on those that refuse, and how it is watched meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.kept import Agent, frames

from backbench.agent import recovery, run_store
from backbench.agent.journal import JournalReader
from backbench.agent.recording import write_failure
from backbench.agent.recovery import whole_events
from backbench.domain.errors import DiskFull, ResultsNotCollected, RunNotFound
from backbench.domain.event import Progress, RunResult, StateChange
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import FailureReason, ModelRef, Run, RunFailure, RunSpec, RunState
from backbench.wire.event import event_from_bytes
from backbench.wire.records import RecordWriter


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.kill()


class RecordWriterThatSyncs(RecordWriter):
    """What is asked of a run gets onto the disk, and only its journal does not."""

    def sync(self) -> None:
        return


def test_a_run_that_cannot_be_begun_leaves_nothing_behind(agent: Agent) -> None:
    agent.registry._db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
    )
    spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    with pytest.raises(DiskFull):
        agent.store.begin(Run(spec, RunState.QUEUED, 1))
    assert list((agent.folder / "runs").iterdir()) == []
    with pytest.raises(RunNotFound):
        agent.store.get(spec.run_id)
    agent.registry._db.execute("DROP TRIGGER full")
    agent.store.begin(Run(spec, RunState.QUEUED, 1))


def test_a_disk_that_syncs_nothing_takes_no_run_and_keeps_nothing_of_it(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse)
        with pytest.raises(DiskFull, match=r"cannot be written \(Input/output error\); "):
            agent.store.begin(Run(RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8), RunState.QUEUED, 1))
        patched.setattr(recovery, "RecordWriter", RecordWriterThatSyncs)
        with pytest.raises(DiskFull, match=r"cannot be written \(Input/output error\); "):
            agent.store.begin(Run(RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8), RunState.QUEUED, 1))
    assert list((agent.folder / "runs").iterdir()) == []


async def test_an_event_is_shown_once_it_is_on_the_disk(agent: Agent) -> None:
    run_id = agent.run(blocks=1)
    recording = agent.store.recordings[run_id]
    watching = agent.store.watch(run_id, 3)
    assert event_from_bytes(await anext(watching)).sequence == 3
    agent.store.emit(recording, frames(10))
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert agent.store.get(run_id).last_sequence == 3
    agent.store.emit(recording, Progress("measure", 0, 10, 20))
    assert event_from_bytes(await waiting).sequence is None
    keeping = asyncio.ensure_future(agent.store.keep(recording))
    assert event_from_bytes(await asyncio.wait_for(anext(watching), 10)).sequence == 4
    keeping.cancel()
    await watching.aclose()


async def test_watchers_of_other_runs_are_not_woken(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, idle = agent.run(), agent.run()
    looked: list[int | None] = []

    def look(reader: JournalReader, last: int | None) -> Iterator[tuple[int, bytes, str]]:
        looked.append(last)
        return whole_events(reader, last)

    monkeypatch.setattr(run_store, "whole_events", look)
    watching = [asyncio.ensure_future(agent.events(idle, 9)) for _ in range(1000)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(looked) == 1000
    for number in range(50):
        agent.store.emit(agent.store.recordings[busy], frames(number))
        agent.store.recordings[busy].sync()
        await asyncio.sleep(0)
    assert len(looked) == 1000
    agent.store.end(agent.store.recordings[idle], RunState.DONE, None)
    ends = await asyncio.wait_for(asyncio.gather(*watching), 20)
    assert {len(events) for events in ends} == {1}


async def test_a_registry_without_room_ends_the_run_too_and_what_is_to_be_kept_is(agent: Agent) -> None:
    run_id = agent.run()
    recording = agent.store.recordings[run_id]
    agent.registry._db.execute(
        "CREATE TRIGGER full BEFORE UPDATE OF state ON run BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
    )
    agent.store.emit(recording, StateChange(RunState.FINISHING))
    assert recording.failure
    assert recording.failure.reason is FailureReason.DISK_FULL
    agent.store.end(recording, RunState.DONE, None)
    assert agent.store.get(run_id).state is RunState.FAILED
    assert (await agent.events(run_id))[-1].sequence == 10
    agent.registry._db.execute("DROP TRIGGER full")
    agent.run(ended=True)
    after = agent.again()
    assert after.store.get(run_id).state is RunState.FAILED
    after.kill()


def test_a_new_run_drops_the_oldest_collected_one_and_is_refused_when_there_is_none(agent: Agent) -> None:
    first, second = agent.run(ended=True), agent.run(ended=True)
    agent.retention._quota_bytes = agent.store.use().used_bytes
    with pytest.raises(ResultsNotCollected, match="2 runs with 0 MiB not collected"):
        agent.run()
    agent.store.acknowledge(first, agent.store.get(first).last_sequence)
    third = agent.run(ended=True)
    with pytest.raises(RunNotFound):
        agent.store.get(first)
    assert {run.spec.run_id for _, run in agent.store.page()} == {second, third}


async def test_a_run_whose_end_the_disk_does_not_take_has_ended_for_everybody(agent: Agent) -> None:
    run_id = agent.run()
    recording = agent.store.recordings[run_id]
    recording.fail(write_failure(OSError(errno.EIO, "Input/output error"), 8))
    watching = asyncio.ensure_future(agent.events(run_id))
    await asyncio.sleep(0)
    shutil.rmtree(agent.folder / "runs" / run_id)
    agent.store.end(recording, RunState.DONE, None)
    run = agent.store.get(run_id)
    assert run.state is RunState.FAILED
    assert run.failure
    assert run.failure.reason is FailureReason.JOURNAL_DAMAGED
    assert "Input/output error" in run.failure.message
    assert isinstance((await asyncio.wait_for(watching, 10))[-1].event, RunResult)


async def test_a_run_ends_whatever_words_its_worker_had_for_its_failure(agent: Agent) -> None:
    run_id = agent.run()
    words = "half \ud800 a pair" + "." * 9999
    agent.store.end(
        agent.store.recordings[run_id],
        RunState.FAILED,
        RunFailure(FailureReason.WORKER_CRASHED, words, log_tail=("\udcff",)),
    )
    failure = agent.store.get(run_id).failure
    assert failure
    assert failure.message.startswith("half ? a pair.")
    assert (len(failure.message), failure.log_tail) == (2000, ("?",))
    end = (await agent.events(run_id))[-1].event
    assert isinstance(end, RunResult)
    assert end.failure == failure


async def test_a_disk_that_others_fill_ends_the_run_before_it_is_quite_full(agent: Agent) -> None:
    run_id = agent.run()
    recording = agent.store.recordings[run_id]
    agent.free_bytes = 1000
    keeping = asyncio.ensure_future(agent.store.keep(recording))
    await asyncio.wait_for(recording.stop.wait(), 10)
    keeping.cancel()
    assert recording.failure
    assert recording.failure.reason is FailureReason.DISK_FULL
    agent.store.end(recording, RunState.CANCELLED, None)
    assert (await agent.events(run_id))[-1].sequence == 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(hog: Path, pages: int) -> None:
    with hog.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(pages):
            file.write(bytes(4096))


async def test_on_a_really_full_disk_the_run_fails_readably_and_after_room_was_made_the_next_one_works(
    small_disk: Path,
) -> None:
    agent = Agent(small_disk)
    assert agent.registry.reserve.fill()
    run_id = agent.run()
    recording = agent.store.recordings[run_id]
    hog = small_disk / "hog"
    number = 6
    while recording.failure is None:
        agent.store.emit(recording, frames(10 * number))
        fill(hog, 16)
        number += 1
    assert recording.failure.reason is FailureReason.DISK_FULL
    kept = recording.journal.last_sequence
    agent.store.end(recording, RunState.DONE, None)
    events = await agent.events(run_id)
    assert [each.sequence for each in events] == list(range(1, kept + 3))
    assert agent.store.get(run_id).state is RunState.FAILED
    fill(hog, 10_000)  # what the reserve gave back, too
    with pytest.raises(DiskFull):
        for _ in range(20):
            agent.run(ended=True)
    hog.unlink()
    assert agent.store.get(agent.run(ended=True)).state is RunState.DONE
    after = agent.again()
    assert after.store.get(run_id).state is RunState.FAILED
    assert len(await after.events(run_id)) == kept + 2
    after.kill()


def test_on_a_full_disk_without_any_reserve_what_was_collected_or_is_deleted_makes_room(small_disk: Path) -> None:
    agent = Agent(small_disk)
    collected, deleted, kept = (agent.run(ended=True, blocks=60) for _ in range(3))
    agent.registry.reserve.release()
    fill(small_disk / "hog", 10_000)
    with contextlib.suppress(DiskFull):
        for number in range(1, 63):  # until the registry's log needs another block
            agent.store.acknowledge(kept, number)
    with pytest.raises(DiskFull):
        agent.store.acknowledge(kept, 1)
    agent.store.acknowledge(collected, agent.store.get(collected).last_sequence)
    fill(small_disk / "hog", 10_000)
    with contextlib.suppress(DiskFull):
        for number in range(1, 63):
            agent.store.acknowledge(kept, number)
    agent.store.delete(deleted)
    assert [run.spec.run_id for _, run in agent.store.page()] == [kept]
    assert [path.name for path in (small_disk / "runs").iterdir()] == [kept]
    agent.kill()
