"""RunService: whose run it is and who may end it, pages of runs, leases of somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backbench.agent.callers import set_caller
from backbench.agent.leases import Leases
from backbench.agent.registry import Registry
from backbench.agent.run_store import RunStore
from backbench.agent.runs import Emit, Runs
from backbench.agent.services import run as service_module
from backbench.agent.services.run import RunService
from backbench.agent.turns import Turns
from backbench.domain.errors import DeviceBusy, InvalidArgument, MessageTooLarge, PermissionDenied, RunNotFound
from backbench.domain.event import StateChange
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunFailure, RunSpec, RunState
from backbench.domain.security import LOCAL_CALLER, Caller, Role
from backbench.v1 import run_pb2 as pb
from backbench.wire.mapping import to_message

ANA = Caller("ana", Role.OPERATOR, "lab", "01")
BEN = Caller("ben", Role.OPERATOR, "lab", "02")
OTHER_ANA = Caller("ana", Role.OPERATOR, "attic", "03")
ADMIN = Caller("root", Role.ADMIN, "lab", "04")
HERE: Any = None


class Agent:
    """The service over runs that go on until they are stopped; `checked` are the specifications looked at."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(folder / "agent.sqlite")
        leases = Leases(self.registry)
        self.checked: list[str] = []
        self.going = asyncio.Event()
        self.runs = Runs(RunStore(folder, self.registry, 1 << 30), self.perform, 100, leases)
        self.service = RunService(self.runs, leases, self.check)
        self.serving = asyncio.ensure_future(self.runs.serve())

    async def check(self, spec: RunSpec) -> None:
        self.checked.append(spec.run_id)

    async def perform(self, spec: RunSpec, emit: Emit, stop: asyncio.Event, turns: Turns) -> RunFailure | None:
        emit(StateChange(RunState.RUNNING))
        self.going.set()
        async with turns.turn(spec.run_id, stop):
            await stop.wait()
        return None

    async def submit(self, caller: Caller, spec: RunSpec | None = None) -> str:
        set_caller(caller)
        spec = spec or RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
        request = pb.SubmitRunRequest(spec=to_message(spec, pb.RunSpec()))
        answer = await self.service.SubmitRun(request, HERE)
        return answer.run.spec.run_id

    async def cancel(self, caller: Caller, run_id: str) -> None:
        set_caller(caller)
        await self.service.CancelRun(pb.CancelRunRequest(run_id=run_id), HERE)

    async def delete(self, caller: Caller, run_id: str) -> None:
        set_caller(caller)
        await self.service.DeleteRun(pb.DeleteRunRequest(run_id=run_id), HERE)

    async def pages(self, **fields: Any) -> list[list[str]]:
        pages, token = [], ""
        while True:
            answer = await self.service.ListRuns(pb.ListRunsRequest(page_token=token, **fields), HERE)
            pages.append([run.spec.run_id for run in answer.runs])
            token = answer.next_page_token
            if not token:
                return pages


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(tmp_path)
    yield made
    await made.runs.stop()
    made.serving.cancel()
    await asyncio.gather(made.serving, return_exceptions=True)
    made.registry.close()


async def test_a_run_belongs_to_who_submitted_it(agent: Agent) -> None:
    run_id = await agent.submit(ANA)
    owner = (await agent.service.GetRun(pb.GetRunRequest(run_id=run_id), HERE)).run.owner
    assert (owner.name, owner.fleet_id) == ("ana", "lab")
    run_id = await agent.submit(LOCAL_CALLER)
    assert (await agent.service.GetRun(pb.GetRunRequest(run_id=run_id), HERE)).run.owner.name == "local"


async def test_a_specification_that_could_be_told_in_no_message_is_not_taken(agent: Agent) -> None:
    spec = RunSpec(new_run_id(), ModelRef("m" * (3 << 20), "a" * 64, "file"), 8, 8)
    with pytest.raises(MessageTooLarge, match="give one of at most 1048576"):
        await agent.submit(ANA, spec)
    assert (agent.checked, await agent.pages()) == ([], [[]])


@pytest.mark.parametrize("stranger", [BEN, OTHER_ANA])
async def test_an_operator_ends_acknowledges_and_deletes_own_runs_alone(agent: Agent, stranger: Caller) -> None:
    run_id = await agent.submit(ANA)
    with pytest.raises(PermissionDenied, match="is ana's; only its owner or an admin may cancel it"):
        await agent.cancel(stranger, run_id)
    await agent.cancel(ANA, run_id)
    with pytest.raises(PermissionDenied, match="acknowledge"):
        set_caller(stranger)
        await agent.service.AcknowledgeRun(pb.AcknowledgeRunRequest(run_id=run_id, sequence=99), HERE)
    with pytest.raises(PermissionDenied, match="delete"):
        await agent.delete(stranger, run_id)
    await agent.delete(ANA, run_id)
    with pytest.raises(RunNotFound):
        await agent.delete(stranger, run_id)


@pytest.mark.parametrize("caller", [ADMIN, LOCAL_CALLER])
async def test_an_admin_and_a_user_of_the_device_end_and_delete_any_run(agent: Agent, caller: Caller) -> None:
    run_id = await agent.submit(ANA)
    await agent.cancel(caller, run_id)
    await agent.delete(caller, run_id)


async def test_a_submission_repeated_at_once_or_later_is_one_run_and_is_not_checked_again(agent: Agent) -> None:
    spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    assert set(await asyncio.gather(*(agent.submit(ANA, spec) for _ in range(5)))) == {spec.run_id}
    checked = len(agent.checked)
    assert await agent.submit(ANA, spec) == spec.run_id
    assert len(agent.checked) == checked
    assert await agent.pages() == [[spec.run_id]]


async def test_no_more_is_acknowledged_than_there_is(agent: Agent) -> None:
    run_id = await agent.submit(ANA)
    await agent.service.AcknowledgeRun(pb.AcknowledgeRunRequest(run_id=run_id, sequence=2**62), HERE)
    await agent.cancel(ANA, run_id)
    run = agent.runs.store.get(run_id)
    assert run.acknowledged_sequence < run.last_sequence
    assert await agent.pages(unacknowledged_only=True) == [[run_id]]
    await agent.service.AcknowledgeRun(pb.AcknowledgeRunRequest(run_id=run_id, sequence=2**62), HERE)
    assert await agent.pages(unacknowledged_only=True) == [[]]


async def test_runs_are_listed_newest_first_page_by_page(agent: Agent) -> None:
    ids = [await agent.submit(ANA) for _ in range(7)]
    newest_first = ids[::-1]
    assert await agent.pages() == [newest_first]
    assert await agent.pages(limit=3) == [newest_first[:3], newest_first[3:6], newest_first[6:]]
    assert await agent.pages(limit=7) == [newest_first]
    assert await agent.pages(limit=2, states=[pb.RUN_STATE_DONE]) == [[]]
    for token in ("-1", "x", "9" * 30):
        with pytest.raises(InvalidArgument, match="page_token"):
            await agent.service.ListRuns(pb.ListRunsRequest(page_token=token), HERE)
    with pytest.raises(InvalidArgument, match="limit"):
        await agent.service.ListRuns(pb.ListRunsRequest(limit=-1), HERE)


async def test_a_page_fits_into_a_message(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "_PAGE_BYTES", 300)
    ids = [await agent.submit(ANA) for _ in range(5)]
    pages = await agent.pages()
    assert len(pages) > 1
    assert [run_id for page in pages for run_id in page] == ids[::-1]


async def test_a_device_is_not_reserved_while_a_run_of_somebody_else_goes_on(agent: Agent) -> None:
    run_id = await agent.submit(ANA)
    await asyncio.wait_for(agent.going.wait(), 10)
    assert agent.runs.store.get(run_id).state is RunState.RUNNING
    set_caller(BEN)
    with pytest.raises(DeviceBusy, match="of ana is going on"):
        await agent.service.AcquireLease(pb.AcquireLeaseRequest(holder="ben"), HERE)
    set_caller(ANA)
    lease = (await agent.service.AcquireLease(pb.AcquireLeaseRequest(holder="ana"), HERE)).lease
    with pytest.raises(DeviceBusy) as caught:
        await agent.service.AcquireLease(pb.AcquireLeaseRequest(holder="ben"), HERE)
    assert caught.value.details == {"holder": "ana", "remaining_s": "60"}
    await agent.service.ReleaseLease(pb.ReleaseLeaseRequest(lease_id=lease.lease_id), HERE)
