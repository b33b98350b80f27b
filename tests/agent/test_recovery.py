"""What is found of runs after a restart, through kills, damage and a lost registry, and how a damaged one ends."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.kept import ANA, DAMAGES, Agent, flip

from backbench.agent import journal, run_store
from backbench.agent.recording import Recording
from backbench.domain.errors import DiskFull, TooManyCalls
from backbench.domain.event import LogLine, RunResult, StateChange
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import FailureReason, ModelRef, Run, RunSpec, RunState
from backbench.wire.event import event_from_bytes


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.kill()


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


@pytest.mark.parametrize("begun", [True, False])
async def test_a_run_that_the_disk_does_not_let_go_on_is_failed_and_kept_until_it_is_collected(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    if begun:
        run_id, kept = agent.run(), 8
    else:
        run = Run(RunSpec(new_run_id(), ModelRef("q", "b" * 64, "file"), 8, 8), RunState.QUEUED, 2, owner=ANA)
        run_id, kept = agent.store.begin(run).spec.run_id, 1
    agent.kill()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    after = Agent(agent.folder)
    with monkeypatch.context() as patched:
        if begun:
            patched.setattr(run_store, "Journal", refuse)
        else:
            patched.setattr(Recording, "sync", refuse)
        assert after.store.recover() == []
    run = after.store.get(run_id)
    assert (run.state, run.last_sequence, run.collected) == (RunState.FAILED, kept, False)
    assert run.failure
    assert f"(Input/output error); everything up to event {kept} is kept" in run.failure.message
    events = await asyncio.wait_for(after.events(run_id), 10)
    assert [each.sequence for each in events] == list(range(1, kept + 2))
    assert isinstance(events[-1].event, RunResult)
    assert events[-1].event.failure == run.failure
    after.free_bytes = 0
    with pytest.raises(DiskFull):
        after.run()
    assert after.store.get(run_id) == run
    after.kill()


async def test_an_agent_with_too_many_files_open_does_not_take_a_run_for_damaged(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = agent.run(ended=True)
    intact = await agent.events(run_id)

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    watching = agent.store.watch(run_id, 1)
    with monkeypatch.context() as patched:
        patched.setattr(journal, "BATCH_BYTES", 1)
        assert event_from_bytes(await anext(watching)) == intact[0]
        patched.setattr(journal, "read_records", refuse)
        with pytest.raises(TooManyCalls, match=r"Too many open files.*watch it again"):
            await anext(watching)
    assert await agent.events(run_id) == intact
    assert agent.store.get(run_id).last_sequence == 9


async def test_who_watches_a_damaged_run_on_a_full_disk_is_given_its_end_too(agent: Agent) -> None:
    run_id = agent.run(ended=True)
    flip(agent.segments(run_id)[3])
    agent.registry._db.execute(
        "CREATE TRIGGER full BEFORE UPDATE OF last_sequence ON run BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
    )
    assert [each.sequence for each in await agent.events(run_id)] == list(range(1, 7))


def test_what_was_left_of_a_run_that_was_being_begun_is_removed_and_what_was_journalled_is_not(agent: Agent) -> None:
    bare, torn, journalled = (agent.folder / "runs" / new_run_id() for _ in range(3))
    for folder in (bare, torn, journalled):
        folder.mkdir()
    for folder in (torn, journalled):
        (folder / "run.rec").write_bytes(b"BBBR torn")
        (folder / "events-000000000001.seg").touch()
    (journalled / "events-000000000001.seg").write_bytes(b"of another version")
    after = agent.again()
    assert list((agent.folder / "runs").iterdir()) == [journalled]
    after.kill()
