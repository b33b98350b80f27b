"""Handing runs over and fetching them later, with a real agent and several controllers."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backbench.controller.client import AgentClient
from backbench.controller.operations.collect import Collected, collect
from backbench.controller.operations.device_runs import ask, find_run, take_in
from backbench.controller.operations.devices import add_device
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import ProfileRequest, plan_profile
from backbench.controller.operations.profile import submit
from backbench.controller.store import Store
from backbench.domain.errors import AgentUnreachable, InvalidRunSpec, RunNotFound
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, Run, RunSpec, RunState
from backbench.wire.records import RecordWriter

MODEL = "mobilenetv3_large_100"
QUICK = ProfileRequest((MODEL,), "here", size="32", frames=30, warmup=2, memory_pass=False)
ENDLESS = replace(QUICK, frames=1_000_000)


@pytest.fixture
def here(store: Store, address: str) -> Store:
    add_device(store, "here", address)
    return store


@pytest.fixture
def elsewhere(tmp_path: Path, address: str) -> Iterator[Store]:
    """The store of another controller."""
    with Store.open(tmp_path / "elsewhere") as other:
        add_device(other, "there", address)
        yield other


def handed_over(store: Store, request: ProfileRequest) -> list[str]:
    return [run.spec.run_id for run in submit(store, plan_profile(request), Observer())]


def until(client: AgentClient, run_id: str, state: RunState) -> Run:
    deadline = time.monotonic() + 60
    while (run := client.get_run(run_id)).state is not state:
        assert time.monotonic() < deadline, run.state
        time.sleep(0.02)
    return run


def fetched(store: Store, device: str = "here", *, everyone: bool = False) -> Collected:
    (collected,) = collect(store, [device], Observer(), everyone=everyone)
    assert collected.error is None
    return collected


def test_what_was_handed_over_is_fetched_once_and_acknowledged(here: Store, client: AgentClient) -> None:
    fetched(here)
    run_ids = handed_over(here, replace(QUICK, models=(MODEL, MODEL), budgets=("max<=10s",)))
    assert [record.run_id for record in reversed(here.runs())] == run_ids
    assert not any(record.state.ended for record in here.runs())
    for run_id in run_ids:
        until(client, run_id, RunState.DONE)
    collected = fetched(here)
    assert [record.run_id for record in collected.records] == run_ids
    for record in collected.records:
        assert record.document is not None
        assert record.document["verdict"] == "pass"
        assert here.frames(record.run_id)["index"].to_pylist() == list(range(32))
        assert client.get_run(record.run_id).collected
    again = fetched(here)
    assert (again.records, again.of_others) == ([], collected.of_others)


def test_a_run_that_was_stopped_is_fetched_with_what_it_measured(here: Store, client: AgentClient) -> None:
    (run_id,) = handed_over(here, ENDLESS)
    events = client.watch_run(run_id)
    assert any(isinstance(event.event, FrameBlock) for event in events)
    assert fetched(here).going_on == 1
    client.cancel_run(run_id)
    (record,) = fetched(here).records
    assert record.state is RunState.CANCELLED
    assert record.document is not None
    assert record.document["frames"]["completed"] > 0


def test_runs_of_others_are_fetched_only_when_that_is_asked_for(
    here: Store, elsewhere: Store, client: AgentClient
) -> None:
    fetched(here, everyone=True)
    (run_id,) = handed_over(elsewhere, replace(QUICK, device="there", budgets=("max<=10s",)))
    until(client, run_id, RunState.DONE)
    left = fetched(here)
    assert (left.records, left.of_others) == ([], 1)
    (record,) = fetched(here, everyone=True).records
    assert record.run_id == run_id
    assert record.budgets == ()
    assert record.device_name == "here"
    (theirs,) = fetched(elsewhere, "there").records
    assert theirs.budgets == ("max<=10s",)
    assert here.frames(run_id) == elsewhere.frames(run_id)


def test_what_is_here_but_was_not_acknowledged_is_acknowledged(here: Store, client: AgentClient) -> None:
    (run_id,) = handed_over(here, QUICK)
    until(client, run_id, RunState.DONE)
    with here.log(run_id) as log:
        for event in client.watch_run(run_id):
            log.append(event)
        here.finish(run_id, log)
    assert not client.get_run(run_id).collected
    assert fetched(here).records == []
    assert client.get_run(run_id).collected


def test_a_run_that_cannot_be_stored_is_counted_and_the_others_are_fetched(
    here: Store, client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(here)
    run_ids = handed_over(here, replace(QUICK, models=(MODEL, MODEL)))
    for run_id in run_ids:
        until(client, run_id, RunState.DONE)
    append = RecordWriter.append

    def full(writer: RecordWriter, sequence: int, payload: bytes) -> None:
        if writer.path.parent.name == run_ids[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(writer, sequence, payload)

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "append", full)
        collected = fetched(here)
    assert (collected.left_out, [record.run_id for record in collected.records]) == (1, run_ids[1:])
    assert not client.get_run(run_ids[0]).collected
    assert [record.run_id for record in fetched(here).records] == run_ids[:1]


def test_a_run_that_another_process_is_at_is_left_to_it(here: Store, client: AgentClient) -> None:
    (run_id,) = handed_over(here, QUICK)
    until(client, run_id, RunState.DONE)
    with here.log(run_id):
        collected = fetched(here)
    assert (collected.records, collected.left_out, collected.going_on) == ([], 0, 1)
    assert [record.run_id for record in fetched(here).records] == [run_id]


def test_a_run_that_two_processes_take_in_at_once_is_one_run(
    here: Store, elsewhere: Store, client: AgentClient
) -> None:
    (run_id,) = handed_over(elsewhere, replace(QUICK, device="there"))
    run, device = until(client, run_id, RunState.DONE), client.get_device()
    assert take_in(here, "here", device, run) == take_in(here, "here", device, run)
    assert fetched(here).going_on == 0
    assert [record.run_id for record in here.runs()] == [run_id]


def test_a_run_that_never_reached_its_device_is_brought_to_an_end(here: Store) -> None:
    spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    here.create_run(spec, "here", here.device("here").device, ())
    (record,) = fetched(here).records
    assert (record.run_id, record.state) == (spec.run_id, RunState.INTERRUPTED)
    assert here.unfinished("here") == ()


def test_a_device_that_does_not_answer_keeps_the_others_from_nothing(here: Store, client: AgentClient) -> None:
    add_device(here, "gone", "127.0.0.1:1", check=False)
    (run_id,) = handed_over(here, QUICK)
    until(client, run_id, RunState.DONE)
    gone, there = collect(here, ["gone", "here"], Observer())
    assert isinstance(gone.error, AgentUnreachable)
    assert [record.run_id for record in there.records] == [run_id]
    silent, told = ask(here, ["gone", "here"])
    assert isinstance(silent.error, AgentUnreachable)
    assert told.error is None
    assert run_id in {each.run.spec.run_id for each in told.runs}


def test_more_runs_than_may_wait_are_refused_before_anything_is_sent(here: Store, client: AgentClient) -> None:
    before = client.list_runs()
    with pytest.raises(InvalidRunSpec, match="--detach hands over at once"):
        handed_over(here, replace(QUICK, models=(MODEL,) * 9))
    assert client.list_runs() == before
    assert here.runs() == ()


def test_runs_of_a_device_are_found_by_the_end_of_their_id(here: Store, client: AgentClient) -> None:
    (run_id,) = handed_over(here, QUICK)
    assert find_run(client, run_id[-8:]).spec.run_id == find_run(client, run_id).spec.run_id == run_id
    for reference in ("", "abc", "nothing-like-it"):
        with pytest.raises(RunNotFound):
            find_run(client, reference)
    until(client, run_id, RunState.DONE)
