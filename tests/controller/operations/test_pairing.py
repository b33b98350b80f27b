"""Pairing with an agent that has the code and cannot be trusted all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from backbench.controller.operations.pairing import pair
from backbench.controller.store import DeviceRecord, Store
from backbench.domain.errors import InvalidArgument, UntrustedAgent
from backbench.v1 import security_pb2, security_pb2_grpc
from backbench.wire import certificates as wire
from backbench.wire import pairing as codes

CODE = "ABCD-EFGH-IJKL-MNOP"


class Odd(security_pb2_grpc.SecurityServiceServicer):
    """Says of itself whatever it is told to."""

    def __init__(self, device_id: str, key: bytes, hostname: str = "") -> None:
        caller = security_pb2.Caller(name="pairing", role=security_pb2.ROLE_PAIRING)
        self.answer = security_pb2.GetSecurityResponse(
            device_id=device_id, public_key_der=key, hostname=hostname, caller=caller
        )
        self.installed = 0

    def GetSecurity(self, request: Any, context: Any) -> security_pb2.GetSecurityResponse:  # noqa: ARG002, N802
        return self.answer

    def InstallCertificate(self, request: Any, context: Any) -> security_pb2.InstallCertificateResponse:  # noqa: ARG002, N802
        self.installed += 1
        return security_pb2.InstallCertificateResponse()


@pytest.fixture
def serve() -> Iterator[Callable[[Odd], str]]:
    """Serves with the certificate of the code; gives the address."""
    servers: list[grpc.Server] = []

    def start(agent: Odd) -> str:
        key = wire.new_key()
        certificate = codes.sign_pairing_server(CODE, key.public_key())
        _, authority = codes.pairing_authority(CODE)
        pair_of_files = (wire.key_to_pem(key), wire.to_pem(certificate))
        credentials = grpc.ssl_server_credentials([pair_of_files], wire.to_pem(authority), require_client_auth=True)
        server = grpc.server(futures.ThreadPoolExecutor(2))
        security_pb2_grpc.add_SecurityServiceServicer_to_server(agent, server)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


KEY = wire.public_key_der(wire.new_key().public_key())


@pytest.mark.parametrize(
    ("device_id", "key", "words"),
    [
        ("*", KEY, "odd id"),
        ("agent.of.another.fleet", KEY, "odd id"),
        ("", KEY, "odd id"),
        ("c0ffeec0ffee", b"no key", "public key"),
    ],
    ids=["a wildcard", "dots", "nothing", "no key"],
)
def test_nothing_is_signed_for_an_agent_with_an_odd_name_or_key(
    store: Store, serve: Callable[[Odd], str], device_id: str, key: bytes, words: str
) -> None:
    agent = Odd(device_id, key)  # type: ignore[abstract]
    with pytest.raises(InvalidArgument, match=words):
        pair(store, serve(agent), CODE)
    assert agent.installed == 0
    assert store.devices() == ()


@pytest.mark.parametrize("name", ["", "another"])
def test_an_agent_does_not_become_another_device_by_saying_that_it_is_one(
    store: Store, serve: Callable[[Odd], str], name: str
) -> None:
    store.put_device(DeviceRecord("pi5", "pi5.local:50061", 1, None, device_id="c0ffeec0ffee"))
    agent = Odd("c0ffeec0ffee", KEY)  # type: ignore[abstract]
    with pytest.raises(InvalidArgument, match=r"says that it is pi5, which is paired at pi5.local:50061; .*--name pi5"):
        pair(store, serve(agent), CODE, name)
    assert agent.installed == 0
    assert [record.address for record in store.devices()] == ["pi5.local:50061"]


def test_a_device_that_is_cut_off_right_after_it_was_paired_is_known_all_the_same(
    store: Store, serve: Callable[[Odd], str]
) -> None:
    agent = Odd("c0ffeec0ffee", KEY, "Ana's Pi.local")  # type: ignore[abstract]
    # It goes on showing the certificate of the code, so the fleet does not know it again.
    with pytest.raises(UntrustedAgent, match="no certificate of this fleet"):
        pair(store, serve(agent), CODE)
    (record,) = store.devices()
    assert (record.name, record.device_id, record.device) == ("Ana-s-Pi", "c0ffeec0ffee", None)
