"""What holds for every test: the same examples on every run, and no network beyond this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "backbench",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("backbench")

_LOOPBACK = ("127.", "::1", "localhost", "::ffff:127.")


def _guarded(real: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
    def connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(_LOOPBACK):
            raise AssertionError(f"a test wanted to reach {address[0]}; only loopback is allowed")
        return real(self, address)

    return connect


@pytest.fixture(autouse=True)
def no_sockets_but_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbids connections that leave this machine. Seen are those of Python's sockets, not those of gRPC's own."""
    monkeypatch.setattr(socket.socket, "connect", _guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", _guarded(socket.socket.connect_ex))
