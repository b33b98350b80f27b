"""The commands on the device and an agent that does not answer them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from backbench.agent import local
from backbench.agent.listening import socket_path
from backbench.domain.errors import DeadlineExceeded


def test_an_agent_that_hangs_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_TIMEOUT_S", 0.2)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(socket_path(tmp_path)))
        deaf.listen()
        with local.LocalAgent(tmp_path) as agent, pytest.raises(DeadlineExceeded) as caught:
            agent.status()
    message = str(caught.value)
    assert message.startswith(f"the agent over {tmp_path} did not answer within 0.2 s")
    assert message.endswith("look into its log, or restart it")
