"""Real agents and their telemetry: a sampler or an agent that is killed, and clocks that must be put back."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from backbench.controller.client import AgentClient
from backbench.controller.push import Upload, push
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import InvalidArgument, InvalidRunSpec
from backbench.domain.event import LogLine, RunEvent, RunResult
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import BackendSpec, ModelRef, RunSpec, RunState, Scenario
from backbench.domain.telemetry import TelemetryBlock
from backbench.models.catalog import skeleton_path

LIMIT_S = 60.0
NAME = "mobilenetv3_large_100"
SERVE = """
import asyncio, sys
from pathlib import Path
from backbench.agent.server import serve
from backbench.agent.settings import Settings
settings = Settings("127.0.0.1:0", Path(sys.argv[1]), allow_set_clocks=True, clocks_root=Path(sys.argv[2]))
asyncio.run(serve(settings))
"""
CLOCKS = {
    "scaling_governor": "schedutil",
    "scaling_available_governors": "performance schedutil",
    "scaling_min_freq": "600000",
    "scaling_max_freq": "1800000",
}
PINNED = {**CLOCKS, "scaling_governor": "performance", "scaling_min_freq": "1800000"}


def spec_of(client: AgentClient, frames: int) -> RunSpec:
    (sha256,) = push(client, [Upload(skeleton_path(NAME), ArtifactKind.SKELETON, NAME)])
    return RunSpec(
        new_run_id(), ModelRef(NAME, sha256, "skeleton"), 32, 32, backend=BackendSpec(threads=1), memory_pass=False,
        scenario=Scenario(frame_count=frames, warmup_frame_count=5),
    )  # fmt: skip


def until(condition: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"not within {LIMIT_S:g} s"
        time.sleep(0.02)
    return found


def samplers(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.Error:
            continue
        if "backbench.agent.sampling" in command and "--survey" not in command:
            found.append(child)
    return found


def result_of(events: list[RunEvent]) -> RunResult:
    happening = events[-1].event
    assert isinstance(happening, RunResult)
    return happening


def test_a_sampler_killed_in_mid_run_costs_no_frame_and_telemetry_goes_on(agent: Any) -> None:
    with AgentClient(agent.address) as client:
        spec = replace(spec_of(client, 1), scenario=Scenario(frame_count=None, duration_ns=5 * 10**9))
        client.submit_run(spec)
        (sampler,) = until(lambda: samplers(agent.process.pid))
        events, killed_ns = [], 0
        for event in client.watch_run(spec.run_id):
            events.append(event)
            if not killed_ns and isinstance(event.event, FrameBlock):
                sampler.send_signal(signal.SIGKILL)
                killed_ns = time.perf_counter_ns()
                until(lambda: [other for other in samplers(agent.process.pid) if other != sampler])
    assert result_of(events).state is RunState.DONE
    indices = [index for event in events if isinstance(event.event, FrameBlock) for index in event.event.index]
    assert indices == list(range(len(indices)))
    (line,) = [event.event for event in events if isinstance(event.event, LogLine)]
    assert "the sampler of telemetry was ended by SIGKILL; it is started again" in line.text
    times = [when for event in events if isinstance(event.event, TelemetryBlock) for when in event.event.time_ns]
    assert min(times) < killed_ns < max(times)


def test_neither_the_sampler_nor_what_it_started_outlives_an_agent_that_is_killed(agent: Any) -> None:
    with AgentClient(agent.address) as client:
        assert next(iter(client.watch_telemetry(2.0))).time_ns
        (sampler,) = samplers(agent.process.pid)
        agent.process.kill()
        agent.process.wait()
        until(lambda: not sampler.is_running() or sampler.status() == psutil.STATUS_ZOMBIE)


def test_a_device_says_of_each_source_whether_it_is_read_and_refuses_what_cannot_be(agent: Any) -> None:
    with AgentClient(agent.address) as client:
        device = client.get_device()
        states = {source.name: source for source in device.sensor_sources}
        assert states["proc"].state == "read"
        assert all(source.reason for source in device.sensor_sources if source.state in ("absent", "denied", "off"))
        units = {channel.name: channel.unit for channel in device.sensors}
        assert units["mem.available"] == "B"
        assert units["agent.cpu"] == "permille"
        assert {"telemetry-sources", "cool-gate", "set-clocks"} < set(device.features)
        spec = spec_of(client, 10)
        with pytest.raises(InvalidRunSpec, match="serve --allow-set-clocks"):
            client.submit_run(replace(spec, set_clocks=True))
        with pytest.raises(InvalidArgument, match='sensor "tegrastats" cannot be read here: '):
            client.submit_run(replace(spec, extra_sources=("tegrastats",)))
        with pytest.raises(InvalidArgument, match="there are pmic, tegrastats, jtop"):
            client.submit_run(replace(spec, extra_sources=("lidar",)))


def test_a_run_waits_for_a_recorded_board_to_cool_and_its_result_says_how_that_went(
    agents: Callable[..., Any], tmp_path: Path
) -> None:
    agent = agents(tmp_path / "data", "127.0.0.1:0", "--simulate", "orin-cooling")
    with AgentClient(agent.address) as client:
        spec = replace(spec_of(client, 50), wait_cool_mc=45_000, wait_cool_limit_ns=60 * 10**9)
        client.submit_run(spec)
        events = list(client.watch_run(spec.run_id))
        with pytest.raises(InvalidRunSpec, match="a simulated device has no clocks to set"):
            client.submit_run(replace(spec, run_id=new_run_id(), set_clocks=True))
    cool_gate = result_of(events).cool_gate
    assert cool_gate is not None
    assert cool_gate.cool
    assert cool_gate.limit_mc == 45_000
    assert (cool_gate.end_mc or 10**6) < 45_000
    values = {
        column.channel: column.values
        for event in events
        if isinstance(event.event, TelemetryBlock)
        for column in event.event.columns
    }
    assert values["power.total"]
    assert all(value < 45_000 for value in values["temp.tj"] if value is not None)


@contextmanager
def agent_with_clocks(data_dir: Path, root: Path) -> Iterator[tuple[subprocess.Popen[str], AgentClient]]:
    command = [sys.executable, "-c", SERVE, str(data_dir), str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        with AgentClient(process.stdout.readline().removeprefix("listening on ").strip()) as client:
            yield process, client
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        process.stdout.close()


def test_clocks_are_what_they_were_after_a_run_and_after_an_agent_was_killed_in_mid_run(tmp_path: Path) -> None:
    root, data_dir = tmp_path / "root", tmp_path / "data"
    policy = root / "sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    for name, text in CLOCKS.items():
        (policy / name).write_text(text)

    def clocks() -> dict[str, str]:
        return {name: (policy / name).read_text() for name in CLOCKS}

    with agent_with_clocks(data_dir, root) as (process, client):
        spec = replace(spec_of(client, 200), set_clocks=True)
        client.submit_run(spec)
        result = result_of(list(client.watch_run(spec.run_id)))
        assert result.state is RunState.DONE
        assert result.clocks_set == {
            "cpu.policy0.governor": "schedutil -> performance",
            "cpu.policy0.min_khz": "600000 -> 1800000",
        }
        assert clocks() == CLOCKS
        endless = replace(spec, run_id=new_run_id(), scenario=Scenario(frame_count=1_000_000))
        client.submit_run(endless)
        until(lambda: clocks() == PINNED)
        process.kill()
        process.wait()
        assert clocks() == PINNED
    with agent_with_clocks(data_dir, root) as (_, client):
        assert clocks() == CLOCKS
        assert client.get_run(endless.run_id).state is RunState.INTERRUPTED
