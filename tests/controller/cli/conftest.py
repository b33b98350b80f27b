"""The command line in this process, against a real agent in another."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.__main__ import main
from backbench.controller.client import agent
from backbench.controller.operations.local_agent import local_agent


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait long for agents that are not there."""
    monkeypatch.setattr(agent, "PATIENCE_S", 0.5)


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a real agent listens."""
    with local_agent(tmp_path_factory.mktemp("agent")) as address:
        yield address


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of one test."""
    monkeypatch.setenv("BACKBENCH_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("BACKBENCH_DEBUG", raising=False)
    return tmp_path / "store"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts a job in the background with interrupts ignored, and a child inherits that, unlike a handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass
class Answer:
    """What a command gave."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


class Backbench:
    """`backbench ...`."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int | None = 0) -> Answer:
        self._capsys.readouterr()
        ended = main(list(arguments))
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        assert status is None or ended == status, f"{arguments}: {ended}\n{said.out}{said.err}"
        return Answer(ended, said.out, said.err)


@pytest.fixture
def backbench(home: Path, capsys: pytest.CaptureFixture[str]) -> Backbench:  # noqa: ARG001
    return Backbench(capsys)


@pytest.fixture
def here(backbench: Backbench, address: str) -> Backbench:
    """The command line, with the real agent known as `here`."""
    backbench("device", "add", "here", address)
    return backbench
