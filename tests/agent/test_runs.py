"""The queue of runs: groups go together, by turns, with members missing, cancelled or left from before a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backbench.agent import runs as runs_module
from backbench.agent.registry import Registry
from backbench.agent.runs import Emit, Runs
from backbench.agent.turns import Turns
from backbench.domain.event import StateChange
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunFailure, RunSpec, RunState


@dataclass
class Device:
    """Runs whose launches only note their names; one of `held` tells `holding` and goes on at `go_on`."""

    folder: Path
    launches: list[str] = field(default_factory=list)
    held: str = ""

    def __post_init__(self) -> None:
        self.holding, self.go_on = asyncio.Event(), asyncio.Event()
        self.registry = Registry(self.folder / "agent.sqlite")
        self.runs = Runs(self.folder, self.registry, self.perform, queue_length=8)

    async def perform(self, spec: RunSpec, emit: Emit, stop: asyncio.Event, turns: Turns) -> RunFailure | None:
        emit(StateChange(RunState.RUNNING))
        for _ in range(spec.launches):
            async with turns.turn(spec.run_id, stop):
                self.launches.append(spec.model.name)
                if spec.model.name == self.held:
                    self.holding.set()
                    await self.go_on.wait()
        return None

    async def ended(self, *specs: RunSpec) -> list[RunState]:
        for spec in specs:
            async for _ in self.runs.watch(spec.run_id, 1):
                pass
        return [self.runs.get(spec.run_id).state for spec in specs]


def spec(name: str, group: str = "", size: int = 0, launches: int = 2) -> RunSpec:
    model = ModelRef(name, "a" * 64, "file")
    return RunSpec(new_run_id(), model, 8, 8, launches=launches, group_id=group, group_size=size)


@pytest.fixture
async def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Device]:
    monkeypatch.setattr(runs_module, "GROUP_WAIT_S", 0.3)
    made = Device(tmp_path)
    serving = asyncio.ensure_future(made.runs.serve())
    yield made
    await made.runs.stop()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    made.registry.close()


async def test_a_group_waits_for_its_members_and_goes_by_turns(device: Device) -> None:
    first, alone, second = spec("A", "g", 2), spec("C"), spec("B", "g", 2)
    device.runs.submit(first)
    await asyncio.sleep(0.05)
    device.runs.submit(alone)
    device.runs.submit(second)
    assert await device.ended(first, second, alone) == [RunState.DONE] * 3
    assert "".join(device.launches) == "BAABCC"


async def test_a_group_whose_other_member_never_comes_goes_on_without_it(device: Device) -> None:
    first, late = spec("A", "g", 2), spec("B", "g", 2)
    device.runs.submit(first)
    assert await device.ended(first) == [RunState.DONE]
    device.runs.submit(late)
    assert await device.ended(late) == [RunState.DONE]
    assert "".join(device.launches) == "AABB"


async def test_a_member_that_is_cancelled_in_the_queue_is_not_waited_for_again(device: Device) -> None:
    first, second = spec("A", "g", 2), spec("B")
    device.runs.submit(first)
    device.runs.submit(second)
    await asyncio.sleep(0.05)
    assert (await device.runs.cancel(first.run_id)).state is RunState.CANCELLED
    assert await device.ended(second) == [RunState.DONE]
    assert "".join(device.launches) == "BB"


async def test_a_member_is_cancelled_while_it_waits_for_its_turn_and_the_other_goes_on(device: Device) -> None:
    device.held = "B"
    first, second = spec("A", "g", 2), spec("B", "g", 2)
    device.runs.submit(first)
    device.runs.submit(second)
    await asyncio.wait_for(device.holding.wait(), 10)
    cancelled = await asyncio.wait_for(device.runs.cancel(first.run_id), 10)
    assert cancelled.state is RunState.CANCELLED
    assert device.runs.get(second.run_id).state is RunState.RUNNING
    device.go_on.set()
    assert await device.ended(second) == [RunState.DONE]
    assert "".join(device.launches) == "BB"


async def test_after_a_restart_what_is_left_of_a_group_is_carried_out(device: Device) -> None:
    left, other = spec("A", "g", 2), spec("B", "g", 2)
    device.registry.add(left)
    device.registry.add(other)
    device.registry.set_state(other.run_id, RunState.RUNNING)
    device.runs.recover()
    assert await device.ended(left, other) == [RunState.DONE, RunState.INTERRUPTED]
    assert "".join(device.launches) == "AA"
