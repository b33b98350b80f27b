"""One sampler process for all who want telemetry: a run first, watchers with what is left, and through its death."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from backbench.agent.sampling import hub
from backbench.agent.sampling.hub import Telemetry
from backbench.agent.sampling.lines import Plan, Survey
from backbench.agent.sampling.thinning import Thinning
from backbench.domain.errors import InvalidArgument
from backbench.domain.telemetry import WORKER_MEMORY, TelemetryBlock, TelemetryColumn

LIMIT_S = 30.0
TJ_MC = 47906


@pytest.fixture
async def telemetry(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Telemetry]:
    """Of a recorded Jetson, or of the recording that the test names."""
    made = Telemetry(getattr(request, "param", "jetson-orin-nano-jp621"), tmp_path)
    yield made
    await made.close()
    assert samplers(made) == []


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No survey is made: it takes a while."""

    async def nothing(*_: object) -> Survey:
        return Survey()

    monkeypatch.setattr(Telemetry, "_look", nothing)


class Run:
    """What a run is given."""

    def __init__(self) -> None:
        self.blocks: list[TelemetryBlock] = []
        self.complaints: list[str] = []

    def sampled(self, telemetry: Telemetry, plan: Plan) -> contextlib.AbstractAsyncContextManager[None]:
        return telemetry.sampled(plan, self.blocks.append, self.complaints.append)

    def values(self, channel: str) -> list[int | None]:
        return [
            value
            for block in self.blocks
            for column in block.columns
            if column.channel == channel
            for value in column.values
        ]

    @property
    def times(self) -> list[int]:
        return [time_ns for block in self.blocks for time_ns in block.time_ns]


def samplers(telemetry: Telemetry) -> list[psutil.Process]:
    """Those of this test: agents of other tests may have theirs just now."""
    return [child for child in psutil.Process().children(recursive=True) if is_sampler(child, telemetry)]


def is_sampler(process: psutil.Process, telemetry: Telemetry) -> bool:
    words = command(process)
    if "backbench.agent.sampling" not in words or "--survey" in words:
        return False
    try:
        return Path(process.cwd()).is_relative_to(str(telemetry._folders))
    except psutil.Error:
        return False


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {LIMIT_S:g} s"
        await asyncio.sleep(0.01)


@pytest.mark.usefixtures("unseen")
async def test_a_run_is_sampled_from_its_beginning_to_its_end_and_not_besides(telemetry: Telemetry) -> None:
    run, again = Run(), Run()
    before_ns = time.perf_counter_ns()
    async with run.sampled(telemetry, Plan(10.0)):
        begun_ns = time.perf_counter_ns()
        await until(lambda: run.values("temp.tj"))
        ended_ns = time.perf_counter_ns()
    after_ns = time.perf_counter_ns()
    assert before_ns <= min(run.times) <= begun_ns
    assert ended_ns <= max(run.times) <= after_ns
    assert set(run.values("temp.tj")) == {TJ_MC}
    assert set(run.values("temp.cv0")) == {None}
    assert all(value > 0 for value in run.values("agent.read.hwmon") if value is not None)
    assert run.complaints == []
    (sampler,) = samplers(telemetry)
    async with again.sampled(telemetry, Plan(10.0)):
        pass
    assert min(again.times) > after_ns
    assert samplers(telemetry) == [sampler]  # the next launch need not wait for a new one


@pytest.mark.usefixtures("unseen")
async def test_a_run_without_telemetry_starts_nothing_and_stops_what_watchers_get(telemetry: Telemetry) -> None:
    run = Run()
    async with run.sampled(telemetry, Plan(0.0)):
        assert samplers(telemetry) == []
        watching = asyncio.ensure_future(next_of(telemetry, Plan(10.0)))
        await asyncio.sleep(0.5)
        assert samplers(telemetry) == []
        assert not watching.done()
    assert "temp.tj" in channels(await asyncio.wait_for(watching, LIMIT_S))
    assert run.blocks == []


async def next_of(telemetry: Telemetry, plan: Plan, channel: str = "temp.tj") -> TelemetryBlock:
    async with contextlib.aclosing(telemetry.watch(plan)) as blocks:
        async for block in blocks:
            if channel in channels(block):
                return block
    raise AssertionError("a watch ended by itself")


def channels(block: TelemetryBlock) -> list[str]:
    return [column.channel for column in block.columns]


@pytest.mark.usefixtures("unseen")
async def test_a_thousand_watchers_share_one_sampler_and_it_goes_with_the_last(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_IDLE_S", 0.05)
    seen = await asyncio.wait_for(asyncio.gather(*(next_of(telemetry, Plan(2.0)) for _ in range(1000))), LIMIT_S)
    assert len(seen) == 1000
    await until(lambda: samplers(telemetry) == [])


@pytest.mark.usefixtures("unseen")
async def test_while_a_run_measures_watchers_get_what_it_samples_and_no_more(telemetry: Telemetry) -> None:
    run, watched = Run(), Run()

    async def watch() -> None:
        async with contextlib.aclosing(telemetry.watch(Plan(10.0))) as blocks:
            async for block in blocks:
                watched.blocks.append(block)

    async with run.sampled(telemetry, Plan(2.0)):
        watching = asyncio.ensure_future(watch())
        await until(lambda: len(watched.values("temp.tj")) >= 3)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert set(watched.times) <= set(run.times)
    gaps = [
        after - before for before, after in zip(times_of(run, "temp.tj"), times_of(run, "temp.tj")[1:], strict=False)
    ]
    assert min(gaps[:-1]) > 0.4e9  # the last one is of the end, whenever that is


def times_of(run: Run, channel: str) -> list[int]:
    return [time_ns for block in run.blocks if channel in channels(block) for time_ns in block.time_ns]


@pytest.mark.usefixtures("unseen")
async def test_a_sampler_that_is_killed_in_mid_run_is_started_again_and_the_run_is_told(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_FIRST_PAUSE_S", 0.05)
    run = Run()
    async with run.sampled(telemetry, Plan(10.0)):
        await until(lambda: run.values("temp.tj"))
        (sampler,) = samplers(telemetry)
        sampler.send_signal(signal.SIGKILL)
        await until(lambda: run.complaints)
        before = len(run.values("temp.tj"))
        await until(lambda: len(run.values("temp.tj")) > before)
    (complaint,) = run.complaints
    assert "was ended by SIGKILL; it is started again" in complaint


async def test_a_sampler_that_cannot_live_delays_no_run_and_is_not_started_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_FIRST_PAUSE_S", 60.0)
    telemetry = Telemetry("no such board", tmp_path)
    run = Run()
    async with run.sampled(telemetry, Plan(10.0)):
        await until(lambda: len(run.complaints) == 2)
    await telemetry.close()
    assert "exited with status" in run.complaints[0]
    assert "has not begun" in run.complaints[1]
    assert await telemetry.survey() == Survey()
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.usefixtures("unseen")
async def test_the_memory_of_the_workers_is_sampled_by_their_process_ids(telemetry: Telemetry) -> None:
    run = Run()
    telemetry.begin(os.getpid())
    async with run.sampled(telemetry, Plan(10.0)):
        await until(lambda: run.values(WORKER_MEMORY))
        assert (run.values(WORKER_MEMORY)[0] or 0) > 1_000_000
        telemetry.end(os.getpid())
        await until(lambda: run.values(WORKER_MEMORY)[-1] is None)


@pytest.mark.parametrize("telemetry", ["orin-cooling"], indirect=True)
@pytest.mark.usefixtures("unseen")
async def test_a_recorded_board_begins_anew_with_each_run(telemetry: Telemetry) -> None:
    first, second = Run(), Run()
    async with first.sampled(telemetry, Plan(10.0)):
        await until(lambda: any(value is not None and value < 45_000 for value in first.values("temp.tj")))
    telemetry.restart_clock()
    async with second.sampled(telemetry, Plan(10.0)):
        pass
    assert (second.values("temp.tj")[0] or 0) > 45_000


@pytest.mark.parametrize("telemetry", ["rpi5-bookworm"], indirect=True)
async def test_what_is_asked_for_besides_is_read_and_what_cannot_be_is_refused_with_the_reason(
    telemetry: Telemetry,
) -> None:
    block = await asyncio.wait_for(next_of(telemetry, Plan(2.0, ("pmic",)), "power.total"), LIMIT_S)
    assert channels(block)[-1] == "agent.read.pmic"
    with pytest.raises(InvalidArgument, match='no sensor "thermometer" to ask for; there are pmic, tegrastats, jtop'):
        await telemetry.check_extra(["thermometer"])
    with pytest.raises(InvalidArgument, match='sensor "jtop" cannot be read here: '):
        await telemetry.check_extra(["pmic", "jtop"])


async def test_the_survey_names_every_source_and_is_not_repeated_while_a_run_measures(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = await telemetry.survey()
    states = {source.name: source.state for source in survey.sources}
    assert states["thermal"] == states["hwmon"] == "read"
    assert states["vcio"] == "absent"
    assert states["tegrastats"] == "off"
    by_name = {channel.name: channel for channel in (*survey.channels, *survey.extra_channels)}
    assert by_name["power.total"].scope == "module_input"
    assert not by_name["emc.util"].available
    assert "--sensor tegrastats" in by_name["emc.util"].reason
    assert (by_name["temp.cv0"].available, by_name["temp.cv0"].reason) == (False, "its hardware sleeps (EAGAIN)")
    assert {"agent.cpu", "agent.read.hwmon", WORKER_MEMORY} < set(by_name)
    assert all(source.period_ns > 0 for source in survey.sources)
    assert all(channel.read_ns for channel in survey.channels if channel.name.startswith("temp."))

    looks: list[object] = []

    async def counted(*extra: str) -> Survey:
        looks.append(extra)
        return survey

    monkeypatch.setattr(hub, "_FRESH_S", 0.0)
    monkeypatch.setattr(telemetry, "_look", counted)
    async with Run().sampled(telemetry, Plan(0.0)):
        assert await telemetry.survey() == survey
    assert looks == []
    await telemetry.survey()
    assert looks == [()]


def test_a_watcher_is_given_each_source_at_its_own_rate() -> None:
    thin = Thinning(2.0)
    times = tuple(number * 100_000_000 for number in range(20))
    block = TelemetryBlock(times, (TelemetryColumn("agent.read.hwmon", "ns", times),))
    first, second = thin(TelemetryBlock(times[:1], (TelemetryColumn("agent.cpu", "permille", (1,)),))), thin(block)
    assert first is not None
    assert second is not None
    assert second.time_ns == second.columns[0].values == (0, 500_000_000, 1_000_000_000, 1_500_000_000)
    assert thin(TelemetryBlock((times[-1] + 1,), (TelemetryColumn("agent.read.hwmon", "ns", (1,)),))) is None
