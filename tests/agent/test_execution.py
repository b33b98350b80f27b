"""One run on its way: its telemetry is of its own turns, it waits for a cool device, and no frame may be missing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from backbench.agent import cooling, execution
from backbench.agent.artifacts import ArtifactStore
from backbench.agent.clocks import Clocks, ClocksSet
from backbench.agent.execution import Execution
from backbench.agent.launches import FramesLost
from backbench.agent.models import ModelCache
from backbench.agent.recording import Note
from backbench.agent.sampling.hub import Blocks, Complain, Telemetry
from backbench.agent.sampling.lines import Plan
from backbench.agent.supervisor import Stopped, Surroundings, Worker
from backbench.agent.turns import Turns
from backbench.domain.errors import InvalidRunSpec
from backbench.domain.event import CoolGate, Happening, Progress
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import SECOND_NS, BackendSpec, ModelRef, RunFailure, RunSpec
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn

SPEC = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8, memory_pass=False, telemetry_rate_hz=10.0)


class Sampled:
    """Telemetry of one sample at the beginning and one at the end, whose temperatures are given."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.temperatures_mc: list[int | None] = [40_000]
        self.processors: list[int | None] = []
        self.restarts = self.samples = 0

    def restart_clock(self) -> None:
        self.restarts += 1

    def pin(self, processor: int | None) -> None:
        self.processors.append(processor)

    @contextlib.asynccontextmanager
    async def sampled(self, plan: Plan, blocks: Blocks, _: Complain) -> AsyncIterator[None]:
        self.plans.append(plan)
        blocks(self.block())
        try:
            yield
        finally:
            blocks(self.block())

    def block(self) -> TelemetryBlock:
        self.samples += 1
        now_mc = self.temperatures_mc.pop(0) if len(self.temperatures_mc) > 1 else self.temperatures_mc[0]
        return TelemetryBlock((time.perf_counter_ns(),), (TelemetryColumn("temp.tj", "mC", (now_mc,)),))


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Sampled:
    """For executions whose model is ready and whose workers do nothing for a while."""

    async def nothing(*_: object) -> None:
        await asyncio.sleep(0.05)

    monkeypatch.setattr(ModelCache, "ready", lambda *_: True)
    monkeypatch.setattr(execution, "run_together", nothing)
    monkeypatch.setattr("backbench.agent.launches.Tally.check", lambda *_: None)
    return Sampled()


def made(
    spec: RunSpec,
    folder: Path,
    telemetry: Sampled,
    turns: Turns,
    events: list[Happening | Note],
    clocks: Clocks | None = None,
) -> Execution:
    store, models = ArtifactStore(folder, 1 << 20), ModelCache(folder)
    surroundings = Surroundings(telemetry=cast("Telemetry", telemetry), clocks=clocks)
    return Execution(spec, store, models, events.append, frame_limit=1000, surroundings=surroundings, turns=turns)


async def test_nothing_is_sampled_in_the_turns_of_others_even_when_the_run_is_stopped(
    telemetry: Sampled, tmp_path: Path
) -> None:
    other = replace(SPEC, run_id=new_run_id())
    turns, stop = Turns([other.run_id, SPEC.run_id]), asyncio.Event()
    async with turns.turn(other.run_id, asyncio.Event()):
        running = asyncio.ensure_future(made(SPEC, tmp_path, telemetry, turns, []).perform(stop))
        await asyncio.sleep(0.25)
        stop.set()
        with pytest.raises(Stopped):
            await running
        assert telemetry.plans == []


async def test_telemetry_is_of_the_run_s_own_turns(telemetry: Sampled, tmp_path: Path) -> None:
    events: list[Happening | Note] = []
    assert await made(SPEC, tmp_path, telemetry, Turns([SPEC.run_id]), events).perform(asyncio.Event()) is None
    assert sum(len(event.time_ns) for event in events if isinstance(event, TelemetryBlock)) == telemetry.samples == 4
    assert telemetry.plans == [Plan(10.0)] * 2
    assert telemetry.restarts == 1


async def test_a_frame_that_arrived_and_has_no_row_is_a_mistake_of_the_agent(
    telemetry: Sampled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(ModelCache, "ready", lambda *_: True)

    async def one_missing(workers: list[Worker], _: object) -> None:
        workers[0].report = {"facts": {}, "counters": {"offered_frame_count": 1}}

    monkeypatch.setattr(execution, "run_together", one_missing)
    with pytest.raises(FramesLost, match="1 frames arrived and 0 of 0"):
        await made(SPEC, tmp_path, telemetry, Turns([SPEC.run_id]), []).perform(asyncio.Event())


async def test_a_preparation_that_is_cancelled_leaves_no_half_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(arguments: list[str], *_: object) -> RunFailure | None:
        destination = Path(arguments[1])
        destination.with_name(f".{destination.name}.0123abcd.part").write_bytes(bytes(1000))
        raise Stopped

    monkeypatch.setattr(execution, "prepare_model", cancelled)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / SPEC.model.sha256).touch()
    with pytest.raises(Stopped):
        await made(SPEC, tmp_path, Sampled(), Turns([SPEC.run_id]), []).perform(asyncio.Event())
    assert list((tmp_path / "models").iterdir()) == []


async def test_a_run_waits_before_its_first_launch_until_the_device_is_cool(
    telemetry: Sampled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[int] = []

    async def launch(*_: object) -> None:
        launched.append(len(telemetry.plans))

    monkeypatch.setattr(execution, "run_together", launch)
    telemetry.temperatures_mc = [50_000, 50_000, 44_000]
    spec = replace(SPEC, launches=3, wait_cool_mc=45_000, wait_cool_limit_ns=30 * SECOND_NS, telemetry_rate_hz=0.0)
    events: list[Happening | Note] = []
    assert await perform(spec, tmp_path, telemetry, events) is None
    assert launched == [3, 4, 5]
    assert [plan.rate_hz for plan in telemetry.plans] == [0, cooling.RATE_HZ, 0, 0, 0]
    (gate,) = gates(events)
    assert (gate.limit_mc, gate.start_mc, gate.end_mc, gate.cool) == (45_000, 44_000, 44_000, True)


async def test_a_device_that_stays_hot_is_measured_all_the_same_and_the_result_says_so(
    telemetry: Sampled, tmp_path: Path
) -> None:
    telemetry.temperatures_mc = [60_000]
    spec = replace(SPEC, wait_cool_mc=45_000, wait_cool_limit_ns=1)
    events: list[Happening | Note] = []
    assert await perform(spec, tmp_path, telemetry, events) is None
    (gate,) = gates(events)
    assert (gate.start_mc, gate.end_mc, gate.cool) == (60_000, 60_000, False)
    assert Progress("cooling", done_count=60_000, total_count=45_000) in events


async def test_a_temperature_that_cannot_be_read_is_never_cool(telemetry: Sampled, tmp_path: Path) -> None:
    telemetry.temperatures_mc = [None]
    events: list[Happening | Note] = []
    assert await perform(replace(SPEC, wait_cool_mc=45_000, wait_cool_limit_ns=1), tmp_path, telemetry, events) is None
    (gate,) = gates(events)
    assert (gate.start_mc, gate.end_mc, gate.cool) == (None, None, False)


async def test_a_wait_for_a_cool_device_can_be_cancelled(telemetry: Sampled, tmp_path: Path) -> None:
    telemetry.temperatures_mc = [60_000]
    stop = asyncio.Event()
    events: list[Happening | Note] = []
    spec = replace(SPEC, wait_cool_mc=45_000, wait_cool_limit_ns=600 * SECOND_NS)
    running = asyncio.ensure_future(made(spec, tmp_path, telemetry, Turns([SPEC.run_id]), events).perform(stop))
    until_s = time.monotonic() + 10
    while not any(isinstance(event, Progress) and event.stage == "cooling" for event in events):
        assert time.monotonic() < until_s
        await asyncio.sleep(0.01)
    stop.set()
    with pytest.raises(Stopped):
        await asyncio.wait_for(running, 10)


async def test_clocks_are_set_while_a_launch_measures_and_only_where_that_is_asked_for(
    telemetry: Sampled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "root/sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    for name, text in (("scaling_min_freq", "600000"), ("scaling_max_freq", "1800000")):
        (policy / name).write_text(text)
    clocks = Clocks(tmp_path, allowed=True, root=tmp_path / "root")
    during: list[str] = []

    async def launch(*_: object) -> None:
        during.append((policy / "scaling_min_freq").read_text())

    monkeypatch.setattr(execution, "run_together", launch)
    events: list[Happening | Note] = []
    assert await perform(replace(SPEC, set_clocks=True), tmp_path, telemetry, events, clocks) is None
    assert await perform(SPEC, tmp_path, telemetry, events, clocks) is None
    assert during == ["1800000", "600000"]
    assert (policy / "scaling_min_freq").read_text() == "600000"
    assert [event for event in events if isinstance(event, ClocksSet)] == [
        ClocksSet({"cpu.policy0.min_khz": "600000 -> 1800000"})
    ]
    (policy / "scaling_min_freq").unlink()
    with pytest.raises(InvalidRunSpec, match="no clocks that could be set"):
        await perform(replace(SPEC, set_clocks=True), tmp_path, telemetry, events, clocks)


@pytest.mark.parametrize(("threads", "sampler", "workers"), [(1, 0, {1}), (2, None, None)])
async def test_the_sampler_has_a_processor_to_itself_where_the_run_leaves_one(
    telemetry: Sampled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    sampler: int | None,
    workers: set[int] | None,
) -> None:
    given: list[object] = []

    async def launch(workers: Sequence[Worker], _: object) -> None:
        given.extend(worker._surroundings.processors for worker in workers)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(execution, "run_together", launch)
    await perform(replace(SPEC, backend=BackendSpec(threads=threads)), tmp_path, telemetry, [])
    assert telemetry.processors == [sampler]
    assert given == [workers]


async def perform(
    spec: RunSpec,
    folder: Path,
    telemetry: Sampled,
    events: list[Happening | Note],
    clocks: Clocks | None = None,
) -> RunFailure | None:
    turns = Turns([spec.run_id])
    return await asyncio.wait_for(made(spec, folder, telemetry, turns, events, clocks).perform(asyncio.Event()), 30)


def gates(events: Sequence[Happening | Note]) -> list[CoolGate]:
    return [event for event in events if isinstance(event, CoolGate)]
