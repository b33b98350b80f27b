from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from backbench.controller.client import AgentClient
from backbench.controller.operations import local_agent as module
from backbench.controller.operations.local_agent import local_agent
from backbench.domain.errors import AgentUnreachable


def _connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_the_agent_lives_as_long_as_the_block_however_it_ends(tmp_path: Path) -> None:
    addresses = []
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), local_agent(tmp_path / error.__name__) as address:
            addresses.append(address)
            assert _connects(address)
            raise error
    assert not any(map(_connects, addresses))


def test_two_agents_do_not_share_a_folder(tmp_path: Path) -> None:
    with local_agent(tmp_path), pytest.raises(AgentUnreachable, match=r"did not start: .*error"), local_agent(tmp_path):
        pass


def test_an_agent_that_does_not_listen_any_more_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.2)
    pids = []
    with local_agent(tmp_path) as address, AgentClient(address) as client:
        client.get_device()
        listening = address.rpartition(":")[2]
        pids = [
            int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_agent(entry, tmp_path)
        ]
        assert listening
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    assert pids
    deadline = time.monotonic() + 5
    while any(_is_agent(Path(f"/proc/{pid}"), tmp_path) for pid in pids):
        assert time.monotonic() < deadline


def _is_agent(process: Path, folder: Path) -> bool:
    try:
        return str(folder).encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False
