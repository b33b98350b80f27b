"""What the client says of agents that cannot show who they are, over real handshakes."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from backbench.controller.client import AgentClient, Security, Tls
from backbench.domain.errors import AgentUnreachable, UntrustedAgent
from backbench.domain.security import Role
from backbench.v1 import device_pb2, device_pb2_grpc
from backbench.wire import certificates as wire

Serve = Callable[..., str]
DAYS_100 = datetime.timedelta(days=100)


class Fleet:
    """An authority, a device and a caller of it."""

    def __init__(self) -> None:
        self.key = wire.new_key()
        self.authority = wire.make_authority(self.key, "fleet")
        self.device_key = wire.new_key()

    def device(self, device_id: str = "d1", age: datetime.timedelta = datetime.timedelta()) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc) - age
        return wire.to_pem(wire.sign_device(self.key, self.authority, self.device_key.public_key(), device_id, now=now))

    def caller(self, fleet: Fleet | None = None, device_id: str = "d1") -> Security:
        """Trusts this fleet, and shows a certificate of `fleet`, by default of this one too."""
        key, signer = wire.new_key(), fleet or self
        certificate = wire.sign_client(signer.key, signer.authority, key.public_key(), "me", Role.ADMIN)
        name = wire.device_name(device_id, wire.fleet_id_of(self.authority))
        return Security(
            Tls(wire.to_pem(self.authority), wire.to_pem(certificate), wire.key_to_pem(key), server_name=name)
        )


class Device(device_pb2_grpc.DeviceServiceServicer):
    def GetDevice(self, request: Any, context: Any) -> device_pb2.GetDeviceResponse:  # noqa: ARG002, N802
        return device_pb2.GetDeviceResponse(device=device_pb2.Device(device_id="d1"))


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def agent(fleet: Fleet) -> Iterator[Serve]:
    """Serves with a certificate, or in plain text without one."""
    servers: list[grpc.Server] = []

    def start(certificate: bytes | None = None) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(2))
        device_pb2_grpc.add_DeviceServiceServicer_to_server(Device(), server)  # type: ignore[abstract]
        servers.append(server)
        if certificate is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (wire.key_to_pem(fleet.device_key), certificate)
            credentials = grpc.ssl_server_credentials([pair], wire.to_pem(fleet.authority), require_client_auth=True)
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


def call(address: str, security: Security) -> str:
    with AgentClient(address, security, patience_s=0.3) as client:
        return client.get_device().device_id


def test_both_sides_of_a_fleet_know_each_other_wherever_the_agent_is_reached(fleet: Fleet, agent: Serve) -> None:
    assert call(agent(fleet.device()), fleet.caller()) == "d1"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda fleet: fleet.device("d2"), "another device answers at .* a certificate for another host"),
        (lambda fleet: fleet.device(age=DAYS_100), "has expired; check the clocks, or pair again: backbench pair 127"),
        (lambda fleet: fleet.device(age=-DAYS_100), "not valid yet by the clock of this machine"),
        (lambda fleet: None, "speaks no TLS"),  # noqa: ARG005
    ],
)
def test_an_agent_that_cannot_show_who_it_is_is_named_and_not_tried_again(
    fleet: Fleet, agent: Serve, make: Callable[[Fleet], bytes | None], words: str
) -> None:
    address = agent(make(fleet))
    with pytest.raises(UntrustedAgent, match=words) as caught:
        call(address, fleet.caller())
    assert address in caught.value.message
    assert "tried for" not in caught.value.message
    assert caught.value.exit_status == 3


def test_an_agent_of_another_fleet_is_said_to_be_that(fleet: Fleet, agent: Serve) -> None:
    with pytest.raises(UntrustedAgent, match=r"no certificate of this fleet.*pair again"):
        call(agent(fleet.device()), Fleet().caller())


def test_a_caller_that_is_turned_away_is_told_to_look_at_its_certificate(fleet: Fleet, agent: Serve) -> None:
    with pytest.raises(AgentUnreachable, match="may not take this controller's certificate: backbench pki list"):
        call(agent(fleet.device()), fleet.caller(Fleet()))


def test_plain_text_towards_tls_is_told_to_pair(fleet: Fleet, agent: Serve) -> None:
    address = agent(fleet.device())
    with pytest.raises(AgentUnreachable, match=f"may ask for TLS: backbench pair {address}"):
        call(address, Security())


def test_no_secret_is_in_the_words_for_a_connection(fleet: Fleet) -> None:
    security = fleet.caller()
    assert "PRIVATE" not in repr(security)
