"""A device that was reserved by a controller that is gone can be had again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.processes import Agent, Backbench, wait_for

from backbench.controller.client import AgentClient
from backbench.domain.errors import DeviceBusy

LONGEST_S = 75.0
"""A reservation runs out a minute after its holder last renewed it."""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    agent.start()
    yield agent
    if agent.alive:
        agent.end(signal.SIGTERM)


def had(client: AgentClient) -> bool:
    try:
        client.release_lease(client.acquire_lease("somebody else", 5.0))
    except DeviceBusy:
        return False
    return True


def reserved(agent: Agent, tmp_path: Path) -> Backbench:
    """The command line whose `profile` of two models has the device, and measures."""
    backbench = Backbench(tmp_path)
    assert backbench("device", "add", "dut", agent.address).status == 0
    command = backbench.start(
        "profile", "mobilenetv3_small_100", "mobilenetv3_large_100", "--device", "dut", "--size", "32",
        "--frames", "3000", "--no-memory-pass",
    )  # fmt: skip
    assert wait_for(lambda: agent.worker() is not None)
    with AgentClient(agent.address) as client:
        assert not had(client)
    command.kill()
    return backbench


@pytest.mark.slow
def test_after_the_controller_was_killed_the_reservation_runs_out(agent: Agent, tmp_path: Path) -> None:
    backbench = reserved(agent, tmp_path)
    with AgentClient(agent.address) as client:
        assert wait_for(lambda: had(client), LONGEST_S)
    collected = backbench("run", "collect", "--device", "dut")
    assert collected.status == 0, collected.stderr


def test_after_controller_and_agent_were_killed_the_device_can_be_had_at_once(agent: Agent, tmp_path: Path) -> None:
    backbench = reserved(agent, tmp_path)
    agent.end(signal.SIGKILL)
    agent.start()
    with AgentClient(agent.address) as client:
        assert had(client)
    collected = backbench("run", "collect", "--device", "dut")
    assert collected.status == 0, collected.stderr
