"""What is kept of runs: through damage, full disks, lost registries and kills, and how it is watched meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backbench.agent import run_store
from backbench.agent.journal import JournalReader
from backbench.agent.recording import write_failure
from backbench.agent.recovery import whole_events
from backbench.agent.registry import Registry
from backbench.agent.retention import Retention
from backbench.agent.run_store import RunStore
from backbench.domain.errors import DiskFull, ResultsNotCollected, RunNotFound
from backbench.domain.event import LogLine, Progress, RunEvent, RunResult, StateChange
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import FailureReason, ModelRef, Owner, Run, RunSpec, RunState
from backbench.wire.event import event_from_bytes
from backbench.wire.records import RecordWriter

ANA = Owner("ana", "lab")


def frames(first: int, count: int = 10) -> FrameBlock:
    times = tuple(range(count))
    return FrameBlock(
        launch=0, index=tuple(range(first, first + count)), due_ns=times, dequeued_ns=times, done_ns=times,
        outcome=(1,) * count, tags=(0,) * count, input=(0,) * count,
    )  # fmt: skip


@dataclass
class Agent:
    """The part of an agent that keeps runs; `again` is one after a kill."""

    folder: Path
    free_bytes: int = 1 << 40

    def __post_init__(self) -> None:
        self.registry = Registry(self.folder / "agent.sqlite")
        self.retention = Retention(
            self.folder / "runs", self.registry, 1 << 30, 1 << 20, lambda _: self.free_bytes
        )  # fmt: skip
        self.store = RunStore(self.folder, self.registry, 0, self.retention)

    def run(self, *, ended: bool = False, blocks: int = 6) -> str:
        """A run of that many blocks, one to a segment."""
        run = Run(RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8), RunState.QUEUED, 1, owner=ANA)
        recording = self.store.begin(run)
        self.store.emit(recording, StateChange(RunState.RUNNING))
        for number in range(blocks):
            recording.journal.begin_segment()
            self.store.emit(recording, frames(10 * number))
        recording.sync()
        if ended:
            self.store.end(recording, RunState.DONE, None)
        return run.spec.run_id

    def segments(self, run_id: str) -> list[Path]:
        return sorted((self.folder / "runs" / run_id).glob("*.seg"))

    async def events(self, run_id: str, from_sequence: int = 1) -> list[RunEvent]:
        watching = self.store.watch(run_id, from_sequence)
        return [event_from_bytes(payload) async for payload in watching]

    def kill(self) -> None:
        self.store.close()
        self.registry.close()

    def again(self) -> Agent:
        self.kill()
        after = Agent(self.folder)
        after.store.recover()
        return after


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.kill()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


def garbage_record(path: Path) -> None:
    """An event that does not parse, in a record whose checksum is right."""
    number = int(path.stem.removeprefix("events-"))
    path.unlink()
    with RecordWriter(path, after=number - 1) as writer:
        writer.append(number, b"\xff\xff no event")


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": flip,
    "a missing segment": Path.unlink,
    "an empty segment": lambda path: path.write_bytes(b""),
    "a shortened segment": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "a segment of garbage": lambda path: path.write_bytes(os.urandom(3000)),
    "an event that does not parse": garbage_record,
    "a folder in place of a segment": folder_in_its_place,
}
# Events: 1 queued, 2 running, 3 to 8 frames, 9 the result; each block of frames begins a segment.


@pytest.mark.parametrize("kind", DAMAGES)
async def test_damage_to_an_ended_run_leaves_what_was_before_and_an_end_that_says_so(agent: Agent, kind: str) -> None:
    run_id = agent.run(ended=True)
    intact = await agent.events(run_id)
    assert [each.sequence for each in intact] == list(range(1, 10))
    DAMAGES[kind](agent.segments(run_id)[3])
    for _ in range(2):
        events = await asyncio.wait_for(agent.events(run_id), 10)
        assert events[:4] == intact[:4]
        line, end = events[4:]
        assert (line.sequence, end.sequence) == (5, 6)
        assert isinstance(line.event, LogLine)
        assert "damaged on the device at event 5" in line.event.text
        assert isinstance(end.event, RunResult)
        assert end.event.failure
        assert (end.event.state, end.event.failure.reason) == (RunState.FAILED, FailureReason.JOURNAL_DAMAGED)
        assert end.event.completed_count == 20
    assert agent.store.get(run_id).state is RunState.DONE
    agent.store.acknowledge(run_id, 6)
    assert agent.store.get(run_id).collected


async def test_who_has_the_damaged_events_already_gets_the_rest_and_the_real_end(agent: Agent) -> None:
    run_id = agent.run(ended=True)
    intact = await agent.events(run_id)
    flip(agent.segments(run_id)[3])
    assert await agent.events(run_id, 6) == intact[5:]
    assert await agent.events(run_id, 9) == intact[8:]


async def test_who_asks_behind_the_end_gets_the_end_with_the_number_asked_for(agent: Agent) -> None:
    run_id = agent.run(ended=True)
    intact = await agent.events(run_id)
    (end,) = await agent.events(run_id, 40)
    assert end.sequence == 40
    assert end.event == intact[-1].event


@pytest.mark.parametrize("kind", DAMAGES)
async def test_damage_to_a_run_that_was_going_on_leaves_an_interrupted_run_up_to_there(agent: Agent, kind: str) -> None:
    run_id = agent.run()
    DAMAGES[kind](agent.segments(run_id)[3])
    after = agent.again()
    run = after.store.get(run_id)
    assert run.state is RunState.INTERRUPTED
    events = await after.events(run_id)
    assert [each.sequence for each in events] == list(range(1, run.last_sequence + 1))
    assert [type(each.event) for each in events] == [
        StateChange, StateChange, FrameBlock, FrameBlock, LogLine, LogLine, RunResult,
    ]  # fmt: skip
    assert isinstance(events[-1].event, RunResult)
    assert events[-1].event.completed_count == 20
    after.kill()


async def test_a_run_that_was_going_on_keeps_every_event_through_a_kill(agent: Agent) -> None:
    run_id = agent.run()
    newest = agent.segments(run_id)[-1]
    newest.write_bytes(newest.read_bytes() + b"BBBR torn")
    after = agent.again()
    events = await after.events(run_id)
    assert [each.sequence for each in events] == list(range(1, 11))
    assert isinstance(events[-1].event, RunResult)
    assert events[-1].event.state is RunState.INTERRUPTED
    assert events[-1].event.completed_count == 60
    run = after.store.get(run_id)
    assert (run.state, run.last_sequence, run.acknowledged_sequence) == (RunState.INTERRUPTED, 10, 0)
    after.kill()


async def test_a_kill_between_the_journals_end_and_the_registrys_changes_nothing(agent: Agent) -> None:
    run_id = agent.run(ended=True)
    agent.registry._db.execute("UPDATE run SET state = 'running', last_sequence = 0")
    after = agent.again()
    run = after.store.get(run_id)
    assert (run.state, run.last_sequence) == (RunState.DONE, 9)
    assert isinstance((await after.events(run_id))[-1].event, RunResult)
    after.kill()


@pytest.mark.parametrize("loss", [Path.unlink, lambda path: path.write_bytes(b"garbage" * 1000)])
async def test_a_lost_registry_is_made_again_from_what_lies_beside_the_journals(
    agent: Agent, loss: Callable[[Path], object]
) -> None:
    done, going = agent.run(ended=True), agent.run()
    queued = Run(RunSpec(new_run_id(), ModelRef("q", "b" * 64, "file"), 8, 8), RunState.QUEUED, 2, owner=ANA)
    agent.store.begin(queued)
    specs = {each: agent.store.get(each).spec for each in (done, going)}
    (agent.folder / "runs" / new_run_id()).mkdir()
    (agent.folder / "runs" / "notes").mkdir()
    agent.kill()
    loss(agent.folder / "agent.sqlite")
    after = Agent(agent.folder)
    (taken_up,) = after.store.recover()
    assert taken_up.spec == queued.spec
    assert taken_up.owner == ANA
    states = {each: after.store.get(each).state for each in (done, going)}
    assert states == {done: RunState.DONE, going: RunState.INTERRUPTED}
    assert {each: after.store.get(each).spec for each in (done, going)} == specs
    assert (await after.events(done))[-1].sequence == 9
    after.kill()


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
