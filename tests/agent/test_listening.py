from __future__ import annotations

import asyncio
import logging
import socket
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from backbench.agent.listening import bind_port, reachable_name, socket_path
from backbench.agent.local import LocalAgent
from backbench.agent.server import Agent
from backbench.agent.settings import Settings
from backbench.domain.errors import AddressUnusable
from backbench.domain.security import Role


async def test_the_socket_is_for_its_owner_alone_and_goes_away_with_the_agent(tmp_path: Path) -> None:
    agent = Agent(Settings("127.0.0.1:0", tmp_path))
    await agent.start()
    try:
        assert stat.S_IMODE(socket_path(tmp_path).stat().st_mode) == 0o600
    finally:
        await agent.stop()
    assert not socket_path(tmp_path).exists()


@pytest.mark.parametrize("name", ["with a space", "100%", "ü?#&"])
async def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    agent = Agent(Settings("127.0.0.1:0", folder))
    await agent.start()

    def ask() -> Role:
        with LocalAgent(folder) as local:
            return local.security().caller.role

    try:
        assert await asyncio.to_thread(ask) is Role.LOCAL
    finally:
        await agent.stop()


async def test_where_no_socket_can_be_the_agent_says_so_and_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    agent = Agent(Settings("127.0.0.1:0", folder))
    with caplog.at_level(logging.WARNING, "backbench.agent.listening"):
        port = await agent.start()
    assert port > 0
    assert "a shorter --data-dir helps" in caplog.text
    await agent.stop()


async def test_a_port_that_is_taken_is_one_error_and_no_line_of_grpcs(capfd: pytest.CaptureFixture[str]) -> None:
    server = grpc.aio.server()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressUnusable, match=f"cannot listen on {address}"):
            bind_port(server, address, None)
    assert capfd.readouterr().err == ""
    await server.stop(None)


def test_an_agent_on_every_address_is_named_by_its_host() -> None:
    assert reachable_name("0.0.0.0:50061", 50061) == socket.gethostname()
    assert reachable_name("[::]:0", 50070) == f"{socket.gethostname()}:50070"
    assert reachable_name("pi5.local:50061", 50061) == "pi5.local"
    assert reachable_name("[fe80::1]:50061", 50062) == "[fe80::1]:50062"


def test_room_for_connections_is_made_as_far_as_the_system_allows() -> None:
    script = (
        "import resource; from backbench.agent.listening import make_room\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048)); make_room(500)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)); make_room(5000); make_room(10)\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["(1524, 2048)", "(2048, 2048)", ""]
