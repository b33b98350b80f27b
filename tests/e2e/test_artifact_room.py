"""Artifacts on a real agent with little room: what goes, what stays, and two who send the same at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.client import AgentClient
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import MessageTooLarge
from backbench.wire.digest import sha256_of_file

SIZE = 3_000_000


@pytest.fixture
def client(agents: Callable[..., Any], tmp_path: Path) -> Any:
    """A client of an agent that has room for two of the files and a half."""
    agent = agents(tmp_path / "agent", "127.0.0.1:0", "--artifact-quota", "7.5MB")
    return AgentClient(agent.address)


def file(folder: Path, number: int, size: int = SIZE) -> Path:
    path = folder / f"{number}.bin"
    path.write_bytes(bytes([number]) * size)
    return path


def send(client: AgentClient, path: Path) -> str:
    sha256 = sha256_of_file(path)
    client.upload(path, sha256, ArtifactKind.MODEL, path.name)
    return sha256


def test_the_one_that_was_asked_for_longest_ago_makes_room(client: AgentClient, tmp_path: Path) -> None:
    with client:
        assert client.get_device().limits.artifact_store_bytes == 7_500_000
        first, second = (send(client, file(tmp_path, number)) for number in (1, 2))
        assert client.find_missing([first]) == ()
        third = send(client, file(tmp_path, 3))
        assert client.find_missing([first, second, third]) == (second,)
        with pytest.raises(MessageTooLarge, match="takes 1 to 7500000"):
            send(client, file(tmp_path, 4, size=8_000_000))


def test_two_who_send_the_same_at_once_are_both_told_that_it_is_there(client: AgentClient, tmp_path: Path) -> None:
    path = tmp_path / "same.bin"
    path.write_bytes(os.urandom(SIZE))
    with client, AgentClient(client.address) as other, ThreadPoolExecutor(2) as threads:
        ended = [threads.submit(send, each, path) for each in (client, other)]
        (sha256,) = {each.result() for each in ended}
        assert client.query_upload(sha256) == (SIZE, True)
        assert [artifact.sha256 for artifact in client.list_artifacts()] == [sha256]
    assert list((tmp_path / "agent/uploads").iterdir()) == []


def test_what_a_loss_of_power_left_of_an_upload_is_sent_again(client: AgentClient, tmp_path: Path) -> None:
    path = file(tmp_path, 1)
    (tmp_path / "agent/uploads" / sha256_of_file(path)).write_bytes(bytes(SIZE // 2))
    with client:
        assert client.upload(path, sha256_of_file(path), ArtifactKind.MODEL, path.name) == SIZE // 2 + SIZE
        assert client.find_missing([sha256_of_file(path)]) == ()
