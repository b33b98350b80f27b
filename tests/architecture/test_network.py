from __future__ import annotations

import socket

import pytest


def test_no_test_can_leave_this_machine() -> None:
    with socket.socket() as outside, pytest.raises(AssertionError, match=r"wanted to reach 192\.0\.2\.1"):
        outside.connect(("192.0.2.1", 80))


def test_a_test_can_reach_loopback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
