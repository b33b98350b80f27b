"""An upload that is cut off sends again no more than the piece that was on its way."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
from tests.faults.processes import Agent
from tests.faults.proxy import Direction, Proxy, Trouble

from backbench.controller.client import AgentClient
from backbench.domain.artifact import ArtifactKind
from backbench.wire.digest import CHUNK_BYTES

FILE_BYTES = 24 << 20
FRAMING_BYTES = 64 << 10
"""What gRPC adds, and the size of the window in which it works."""


@pytest.mark.parametrize("trouble", [Trouble.RESET, Trouble.FINISH])
def test_after_a_cut_at_nine_tenths_one_tenth_and_at_most_a_chunk_are_sent(trouble: Trouble, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(os.urandom(FILE_BYTES))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    agent = Agent(tmp_path)
    agent.start()
    try:
        with Proxy(agent.address) as proxy, AgentClient(proxy.address) as client:
            cut_at = round(0.9 * FILE_BYTES)
            proxy.after(Direction.TO_AGENT, cut_at, trouble)
            client.upload(path, sha256, ArtifactKind.MODEL, path.name)
            sent_again = proxy.passed[Direction.TO_AGENT] - cut_at
            assert client.query_upload(sha256) == (FILE_BYTES, True)
    finally:
        agent.end(signal.SIGTERM)
    assert sent_again <= FILE_BYTES - cut_at + CHUNK_BYTES + FRAMING_BYTES
