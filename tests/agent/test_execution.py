"""One run on its way: its telemetry is of its own turns, and no frame of a launch may be missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from backbench.agent import execution
from backbench.agent.artifacts import ArtifactStore
from backbench.agent.execution import Execution
from backbench.agent.launches import FramesLost
from backbench.agent.models import ModelCache
from backbench.agent.supervisor import Stopped, Worker
from backbench.agent.turns import Turns
from backbench.domain.device import SensorChannel
from backbench.domain.event import Happening
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec
from backbench.domain.telemetry import TelemetryBlock

SPEC = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8, memory_pass=False, telemetry_rate_hz=10.0)


class Counting:
    """A sensor that knows how often it was read."""

    name = "counting"
    reads = 0

    def channels(self) -> tuple[SensorChannel, ...]:
        return (SensorChannel("reads", "1", "test"),)

    def read(self) -> Mapping[str, int | None]:
        self.reads += 1
        return {"reads": self.reads}


@pytest.fixture
def sensor(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """For executions whose model is ready and whose workers do nothing for a while."""

    async def nothing(*_: object) -> None:
        await asyncio.sleep(0.05)

    monkeypatch.setattr(ModelCache, "ready", lambda *_: True)
    monkeypatch.setattr(execution, "run_together", nothing)
    return Counting()


def made(spec: RunSpec, folder: Path, sensor: Counting, turns: Turns, events: list[Happening]) -> Execution:
    store, models = ArtifactStore(folder, 1 << 20), ModelCache(folder)
    return Execution(spec, store, models, [sensor], events.append, frame_limit=1000, turns=turns)


async def test_no_sensor_is_read_in_the_turns_of_others_even_when_the_run_is_stopped(
    sensor: Counting, tmp_path: Path
) -> None:
    other = replace(SPEC, run_id=new_run_id())
    turns, stop = Turns([other.run_id, SPEC.run_id]), asyncio.Event()
    async with turns.turn(other.run_id, asyncio.Event()):
        running = asyncio.ensure_future(made(SPEC, tmp_path, sensor, turns, []).perform(stop))
        await asyncio.sleep(0.25)
        stop.set()
        with pytest.raises(Stopped):
            await running
        assert sensor.reads == 0


async def test_telemetry_is_of_the_run_s_own_turns(
    sensor: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backbench.agent.launches.Tally.check", lambda *_: None)
    events: list[Happening] = []
    assert await made(SPEC, tmp_path, sensor, Turns([SPEC.run_id]), events).perform(asyncio.Event()) is None
    assert sum(len(event.time_ns) for event in events if isinstance(event, TelemetryBlock)) == sensor.reads >= 2


async def test_a_frame_that_arrived_and_has_no_row_is_a_mistake_of_the_agent(
    sensor: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one_missing(workers: list[Worker], _: object) -> None:
        workers[0].report = {"facts": {}, "counters": {"offered_frame_count": 1}}

    monkeypatch.setattr(execution, "run_together", one_missing)
    with pytest.raises(FramesLost, match="1 frames arrived and 0 of 0"):
        await made(SPEC, tmp_path, sensor, Turns([SPEC.run_id]), []).perform(asyncio.Event())
