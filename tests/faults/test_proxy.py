"""The proxy does to a connection exactly what it was told to, and forwards everything else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from tests.faults.proxy import Direction, Proxy, Trouble

DEADLINE_S = 10.0


class Echo:
    """A server that sends back what it gets, and remembers how each connection ended."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.ends: list[str] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._echo(connection)

    def _echo(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
            self.ends.append("finished")
        except OSError:
            self.ends.append("reset")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(DEADLINE_S)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as proxy:
        yield proxy


def connected(proxy: Proxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


def exchanged(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    received = b""
    while len(received) < len(data) and (piece := connection.recv(65536)):
        received += piece
    return received


def test_it_forwards_and_counts_both_ways(proxy: Proxy) -> None:
    data = bytes(range(256)) * 4096
    with connected(proxy) as connection:
        threading.Thread(target=connection.sendall, args=(data,)).start()
        assert exchanged(connection, b"") == b""
        received = b""
        while len(received) < len(data):
            received += connection.recv(65536)
    assert received == data
    assert proxy.passed == {Direction.TO_AGENT: len(data), Direction.TO_CONTROLLER: len(data)}


@pytest.mark.parametrize("way", Direction)
def test_it_cuts_after_an_exact_number_of_bytes(proxy: Proxy, way: Direction) -> None:
    done = proxy.after(way, 1000, Trouble.FINISH)
    with connected(proxy) as connection:
        received = exchanged(connection, b"x" * 5000)
    assert done.wait(DEADLINE_S)
    assert proxy.passed[way] == 1000
    assert len(received) <= 1000


def test_a_reset_is_a_reset_at_both_ends(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as connection:
        assert exchanged(connection, b"hello") == b"hello"
        proxy.trouble(Trouble.RESET)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    until(lambda: echo.ends == ["reset"])


def test_one_end_alone_hears_of_a_half_open_connection(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as connection:
        assert exchanged(connection, b"hello") == b"hello"
        proxy.trouble(Trouble.CONTROLLER_NOT_TOLD)
        until(lambda: echo.ends == ["reset"])
        connection.sendall(b"is anybody there?")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_what_is_held_arrives_when_it_is_released(proxy: Proxy) -> None:
    held = proxy.hold_after(Direction.TO_AGENT, 3)
    with connected(proxy) as connection:
        connection.sendall(b"hello")
        assert held.wait(DEADLINE_S)
        assert proxy.passed[Direction.TO_AGENT] == 3
        proxy.release()
        assert exchanged(connection, b"") == b""
        received = b""
        while len(received) < 5:
            received += connection.recv(5)
    assert received == b"hello"


def test_one_byte_at_a_time_arrives_whole(proxy: Proxy) -> None:
    proxy.trouble(Trouble.TRICKLE, 0.1)
    with connected(proxy) as connection:
        assert exchanged(connection, b"abc" * 500) == b"abc" * 500


def test_nobody_listens_while_it_is_down(proxy: Proxy) -> None:
    proxy.down()
    with pytest.raises(ConnectionRefusedError):
        connected(proxy)
    proxy.up()
    with connected(proxy) as connection:
        assert exchanged(connection, b"hello") == b"hello"


def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
