"""A real agent, a store of one's own, and a line between them that can be cut."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backbench.controller.client import AgentClient, agent
from backbench.controller.operations.local_agent import local_agent
from backbench.controller.store import Store


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
def client(address: str) -> Iterator[AgentClient]:
    with AgentClient(address) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


class Line:
    """A TCP proxy that cuts each of its first `cuts` connections after some bytes in one direction, then none."""

    def __init__(self, target: str, cuts: int = 0, down_bytes: int = 0, up_bytes: int = 0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.cuts_left = cuts
        self._limits = (up_bytes, down_bytes)
        self.up_bytes = 0
        self.connections = 0
        self.dead = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._stop_read, self._stop_write = socket.socketpair()
        self._flows = threading.Event()
        self._flows.set()
        self._deaf = False
        self._accepting = threading.Thread(target=self._accept)
        self._pumps: list[threading.Thread] = []
        self._accepting.start()

    def close(self) -> None:
        """Cut everything and take no connection any more."""
        if self.dead.is_set():
            return
        self.dead.set()
        self._flows.set()
        self._stop_write.close()
        self._accepting.join()
        for pump in self._pumps:
            pump.join()
        self._listener.close()
        self._stop_read.close()

    def stall(self) -> None:
        """Let nothing through any more, without a word to either side."""
        self._flows.clear()

    def go_on(self) -> None:
        """Let everything through again."""
        self._flows.set()

    def lose_the_next_answer(self) -> None:
        """Cut the connection when the far side next sends something, in place of passing it on."""
        self._deaf = True

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self._stop_read], [], [])
            if self._stop_read in ready:
                self._listener.close()
                return
            near, _ = self._listener.accept()
            self.connections += 1
            pump = threading.Thread(target=self._pump, args=(near,))
            self._pumps.append(pump)
            pump.start()

    def _pump(self, near: socket.socket) -> None:
        passed = [0, 0]
        with near, socket.create_connection(self._target) as far, contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([near, far, self._stop_read], [], [])
                if self._stop_read in ready:
                    return
                for source, sink, way in ((near, far, 0), (far, near, 1)):
                    if source not in ready:
                        continue
                    data = source.recv(65536)
                    self._flows.wait()
                    if not data:
                        return
                    if way == 1 and self._deaf:
                        self._deaf = False
                        return
                    sink.sendall(data)
                    passed[way] += len(data)
                    self.up_bytes += len(data) if way == 0 else 0
                    limit = self._limits[way]
                    if limit and passed[way] >= limit and self.cuts_left > 0:
                        self.cuts_left -= 1
                        return


@pytest.fixture
def line() -> Iterator[Callable[..., Line]]:
    """Makes lines and closes them at the end."""
    with contextlib.ExitStack() as opened:

        def make(target: str, **limits: int) -> Line:
            made = Line(target, **limits)
            opened.callback(made.close)
            return made

        yield make
