"""The queue of runs at work: order, places, leases, cancels, groups, restarts."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from backbench.agent import run_queue
from backbench.agent.leases import Leases
from backbench.agent.registry import Registry
from backbench.agent.run_store import RunStore
from backbench.agent.runs import Emit, Runs
from backbench.agent.turns import Turns
from backbench.domain.errors import (
    AgentStopping,
    DeviceBusy,
    InvalidRunSpec,
    LeaseNotFound,
    QueueFull,
    RunNotFinished,
    RunNotFound,
    StaleEpoch,
)
from backbench.domain.event import LogLine, Progress, RunEvent, RunResult, StateChange
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import SECOND_NS, FailureReason, ModelRef, Owner, Priority, RunFailure, RunSpec, RunState
from backbench.wire.event import event_from_bytes

ERRORS = {"mistake": ZeroDivisionError(), "full": OSError(errno.ENOSPC, "No space left on device")}
ANA, BEN = Owner("ana", "lab"), Owner("ben", "lab")


@dataclass
class Device:
    """Runs whose launches only note their names; one of `held` tells `holding` and goes on at `go_on`."""

    folder: Path
    launches: list[str] = field(default_factory=list)
    held: str = ""
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.holding, self.go_on = asyncio.Event(), asyncio.Event()
        self.registry = Registry(self.folder / "agent.sqlite")
        self.leases = Leases(self.registry, lambda: time.monotonic_ns() + self.now_ns)
        self.store = RunStore(self.folder, self.registry, quota_bytes=1 << 30)
        self.runs = Runs(self.store, self.perform, 4, self.leases)
        self.serving = asyncio.ensure_future(self.runs.serve())

    async def perform(self, spec: RunSpec, emit: Emit, stop: asyncio.Event, turns: Turns) -> RunFailure | None:
        emit(StateChange(RunState.RUNNING))
        for _ in range(spec.launches):
            async with turns.turn(spec.run_id, stop):
                self.launches.append(spec.model.name)
                await asyncio.sleep(0.001)
                if spec.model.name in ERRORS:
                    raise ERRORS[spec.model.name]
                if spec.model.name == self.held:
                    self.holding.set()
                    await self.go_on.wait()
        return None

    def submit(self, *specs: RunSpec, owner: Owner = ANA, lease: object = None) -> None:
        for each in specs:
            if lease is None:
                self.runs.submit(each, owner)
            else:
                self.runs.submit(each, owner, lease.lease_id, lease.epoch)  # type: ignore[attr-defined]

    async def hold(self, name: str = "held") -> RunSpec:
        """A run that is going on until `go_on`."""
        self.held = name
        first = spec(name, launches=1)
        self.submit(first)
        await asyncio.wait_for(self.holding.wait(), 10)
        return first

    async def events(self, run: RunSpec) -> list[RunEvent]:
        return [event_from_bytes(payload) async for payload in self.store.watch(run.run_id, 1)]

    async def ended(self, *specs: RunSpec) -> list[RunState]:
        for each in specs:
            await asyncio.wait_for(self.events(each), 20)
        return [self.state(each) for each in specs]

    def state(self, run: RunSpec) -> RunState:
        return self.store.get(run.run_id).state

    def places(self, *specs: RunSpec) -> list[int]:
        return [self.store.get(each.run_id).queue_position for each in specs]

    async def close(self) -> None:
        await self.runs.stop()
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        self.registry.close()


def spec(name: str, group: str = "", size: int = 0, launches: int = 2, priority: Priority | None = None) -> RunSpec:
    model = ModelRef(name, "a" * 64, "file")
    priority = priority or Priority.INTERACTIVE
    return RunSpec(
        new_run_id(), model, 8, 8, launches=launches, group_id=group, group_size=size, priority=priority
    )  # fmt: skip


@pytest.fixture
async def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Device]:
    monkeypatch.setattr(run_queue, "GROUP_WAIT_S", 0.3)
    made = Device(tmp_path)
    yield made
    await made.close()


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "it did not happen within 20 s"
        await asyncio.sleep(0.005)


async def test_a_group_waits_for_its_members_and_goes_by_turns(device: Device) -> None:
    first, alone, second = spec("A", "g", 2), spec("C"), spec("B", "g", 2)
    device.submit(first)
    await asyncio.sleep(0.05)
    device.submit(alone, second)
    assert await device.ended(first, second, alone) == [RunState.DONE] * 3
    assert "".join(device.launches) == "BAABCC"


async def test_a_group_whose_other_member_never_comes_goes_on_without_it(device: Device) -> None:
    first, late = spec("A", "g", 2), spec("B", "g", 2)
    device.submit(first)
    assert await device.ended(first) == [RunState.DONE]
    device.submit(late)
    assert await device.ended(late) == [RunState.DONE]
    assert "".join(device.launches) == "AABB"


async def test_nobody_joins_the_group_of_somebody_else(device: Device) -> None:
    first, intruder = spec("A", "g", 2), spec("B", "g", 2)
    device.submit(first)
    device.submit(intruder, owner=BEN)
    assert await device.ended(first, intruder) == [RunState.DONE] * 2
    assert "".join(device.launches) == "AABB"


async def test_a_member_that_is_cancelled_in_the_queue_is_not_waited_for_again(device: Device) -> None:
    first, second = spec("A", "g", 2), spec("B")
    device.submit(first, second)
    await asyncio.sleep(0.05)
    assert (await device.runs.cancel(first.run_id)).state is RunState.CANCELLED
    assert await device.ended(second) == [RunState.DONE]
    assert "".join(device.launches) == "BB"


async def test_a_member_is_cancelled_while_it_waits_for_its_turn_and_the_other_goes_on(device: Device) -> None:
    device.held = "B"
    first, second = spec("A", "g", 2), spec("B", "g", 2)
    device.submit(first, second)
    await asyncio.wait_for(device.holding.wait(), 10)
    cancelled = await asyncio.wait_for(device.runs.cancel(first.run_id), 10)
    assert cancelled.state is RunState.CANCELLED
    assert device.state(second) is RunState.RUNNING
    device.go_on.set()
    assert await device.ended(second) == [RunState.DONE]
    assert "".join(device.launches) == "BB"


async def test_interactive_runs_go_before_nightly_ones_but_do_not_end_one_that_is_going_on(device: Device) -> None:
    held = await device.hold()
    night = [spec("n1", launches=1, priority=Priority.NIGHTLY), spec("n2", launches=1, priority=Priority.NIGHTLY)]
    day = [spec("d1", launches=1), spec("d2", launches=1)]
    device.submit(night[0], day[0], night[1], day[1])
    assert device.places(*day, *night) == [1, 2, 3, 4]
    assert device.state(held) is RunState.RUNNING
    device.go_on.set()
    await device.ended(*night, *day)
    assert device.launches == ["held", "d1", "d2", "n1", "n2"]


async def test_nightly_runs_do_not_take_the_places_of_interactive_ones(device: Device) -> None:
    await device.hold()
    device.submit(*(spec("n", priority=Priority.NIGHTLY) for _ in range(4)))
    with pytest.raises(QueueFull):
        device.submit(spec("n", priority=Priority.NIGHTLY))
    device.submit(*(spec("d") for _ in range(4)))
    with pytest.raises(QueueFull, match="4 runs are waiting"):
        device.submit(spec("d"))
    device.go_on.set()


async def test_who_waits_is_shown_the_place_and_who_uses_the_device(device: Device) -> None:
    await device.hold()
    first, second = spec("a"), spec("b")
    device.submit(first, second, owner=BEN)
    watching = asyncio.ensure_future(device.events(second))
    await until(lambda: device.places(second) == [2])
    await asyncio.sleep(0.05)
    await device.runs.cancel(first.run_id)
    await asyncio.sleep(0.05)
    device.go_on.set()
    events = await asyncio.wait_for(watching, 20)
    queued = [each.event for each in events if isinstance(each.event, Progress) and each.event.stage == "queued"]
    assert queued[:2] == [
        Progress("queued", queue_position=2, holder="ana"),
        Progress("queued", queue_position=1, holder="ana"),
    ]
    assert [each.sequence for each in events if each.sequence] == [1, 2, 3]


async def test_while_somebody_holds_a_lease_the_runs_of_others_wait_and_are_told_for_whom(device: Device) -> None:
    lease = device.leases.acquire("ana's laptop", None)
    other = spec("other", launches=1)
    device.submit(other, owner=BEN)
    watching = asyncio.ensure_future(device.events(other))
    mine = [spec("m1", launches=1), spec("m2", launches=1)]
    for each in mine:
        device.submit(each, lease=lease)
        assert await device.ended(each) == [RunState.DONE]
    assert device.state(other) is RunState.QUEUED
    assert device.places(other) == [0]
    device.leases.release(lease.lease_id)
    shown = [each.event for each in await asyncio.wait_for(watching, 20) if isinstance(each.event, Progress)]
    assert Progress("queued", queue_position=0, holder="ana's laptop") in shown
    assert device.launches == ["m1", "m2", "other"]


async def test_a_lease_that_nobody_renews_lets_the_next_run_go(device: Device) -> None:
    lease = device.leases.acquire("ana", 5 * SECOND_NS)
    left, other = spec("left", launches=1), spec("other", launches=1)
    device.submit(other, owner=BEN)
    await asyncio.sleep(0.05)
    assert device.state(other) is RunState.QUEUED
    device.now_ns = 4_950_000_000
    device.leases.on_change()
    assert await device.ended(other) == [RunState.DONE]
    with pytest.raises(LeaseNotFound):
        device.submit(left, lease=lease)
    device.leases.acquire("ben", None)
    with pytest.raises(StaleEpoch):
        device.submit(left, lease=lease)
    with pytest.raises(RunNotFound):
        device.state(left)


async def test_a_run_goes_on_to_its_end_when_its_lease_runs_out(device: Device) -> None:
    lease = device.leases.acquire("ana", 5 * SECOND_NS)
    device.held = "mine"
    mine, next_one, other = spec("mine", launches=1), spec("next", launches=1), spec("other", launches=1)
    device.submit(mine, lease=lease)
    await asyncio.wait_for(device.holding.wait(), 10)
    device.submit(other, owner=BEN)
    device.submit(next_one, lease=lease)
    assert device.places(next_one, other) == [1, 2]
    device.now_ns = 6 * SECOND_NS
    device.leases.on_change()
    assert device.state(mine) is RunState.RUNNING
    assert device.places(other, next_one) == [1, 2]
    device.go_on.set()
    assert await device.ended(mine, next_one, other) == [RunState.DONE] * 3
    assert device.launches == ["mine", "other", "next"]


async def test_a_device_with_a_run_of_somebody_else_is_not_reserved(device: Device) -> None:
    held = await device.hold()
    device.runs.check_idle(ANA)
    with pytest.raises(DeviceBusy, match="of ana is going on") as caught:
        device.runs.check_idle(BEN)
    assert caught.value.details == {"holder": "ana", "run_id": held.run_id}
    device.go_on.set()
    await device.ended(held)
    device.runs.check_idle(BEN)


async def test_the_same_run_submitted_again_is_one_run(device: Device) -> None:
    await device.hold()
    wanted = spec("a", launches=1)
    for _ in range(6):
        device.submit(wanted)
    with pytest.raises(InvalidRunSpec, match="another specification"):
        device.submit(replace(wanted, batch=2))
    device.go_on.set()
    assert await device.ended(wanted) == [RunState.DONE]
    device.submit(wanted)
    assert device.launches == ["held", "a"]


@pytest.mark.parametrize(("error", "reason"), [("mistake", FailureReason.AGENT_BUG), ("full", FailureReason.DISK_FULL)])
async def test_an_error_in_a_run_ends_it_and_the_next_one_goes(
    device: Device, error: str, reason: FailureReason
) -> None:
    wrong, right = spec(error), spec("a", launches=1)
    device.submit(wrong, right)
    assert await device.ended(wrong, right) == [RunState.FAILED, RunState.DONE]
    failure = device.store.get(wrong.run_id).failure
    assert failure
    assert failure.reason is reason


async def test_a_registry_that_takes_nothing_any_more_leaves_no_run_going_on(device: Device) -> None:
    held = await device.hold()
    blocking = sqlite3.connect(device.folder / "agent.sqlite", isolation_level=None)
    device.registry._db.execute("PRAGMA busy_timeout = 0")
    blocking.execute("BEGIN IMMEDIATE")
    device.go_on.set()
    assert await device.ended(held) == [RunState.DONE]
    blocking.execute("COMMIT")
    blocking.close()
    after = spec("after", launches=1)
    device.submit(after)
    assert await device.ended(after) == [RunState.DONE]
    await device.close()
    again = Device(device.folder)
    assert again.state(held) is RunState.DONE
    await again.close()


async def test_a_run_that_is_going_on_is_not_deleted(device: Device) -> None:
    held = await device.hold()
    with pytest.raises(RunNotFinished, match="cancel it first"):
        device.store.delete(held.run_id)
    device.go_on.set()
    await device.ended(held)
    device.store.delete(held.run_id)
    with pytest.raises(RunNotFound):
        device.state(held)
    assert [path.name for path in (device.folder / "runs").iterdir()] == []


async def test_an_agent_that_stops_interrupts_what_goes_on_keeps_what_waits_and_sends_its_watchers_away(
    device: Device,
) -> None:
    going = spec("long", launches=10**6)
    device.submit(going)
    await until(lambda: len(device.launches) > 3)
    waits = spec("waits", launches=1)
    device.submit(waits)
    watching = asyncio.ensure_future(device.events(waits))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(device.runs.stop(), 20)
    with pytest.raises(AgentStopping):
        await asyncio.wait_for(watching, 20)
    with pytest.raises(AgentStopping):
        device.submit(spec("late"))
    with pytest.raises(AgentStopping, match="when it is back"):
        await device.runs.cancel(waits.run_id)
    assert device.state(going) is RunState.INTERRUPTED
    await device.close()
    again = Device(device.folder)
    again.runs.recover()
    assert await again.ended(waits) == [RunState.DONE]
    assert again.store.get(waits.run_id).owner == ANA
    await again.close()


async def test_after_a_restart_what_was_going_on_is_interrupted_and_the_rest_goes_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_queue, "GROUP_WAIT_S", 0.3)
    before = Device(tmp_path)
    before.serving.cancel()
    went, first, second = spec("w", "g", 2), spec("A", "g", 2), spec("B")
    before.submit(went, first, second)
    before.store.emit(before.store.recordings[went.run_id], StateChange(RunState.RUNNING))
    before.store.close()
    before.registry.close()
    after = Device(tmp_path)
    after.runs.recover()
    assert await after.ended(went, first, second) == [RunState.INTERRUPTED, RunState.DONE, RunState.DONE]
    assert "".join(after.launches) == "AABB"
    events = await after.events(went)
    assert [each.sequence for each in events] == [1, 2, 3, 4]
    assert isinstance(events[-2].event, LogLine)
    assert isinstance(events[-1].event, RunResult)
    await after.close()
