"""Certificates of devices, against an agent of the fleet that says it is another one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from backbench.controller.operations.certificates import renew
from backbench.controller.operations.devices import add_device, client_of, contact
from backbench.controller.security import Authority, Pki
from backbench.controller.store import DeviceRecord, Store
from backbench.domain.device import MIN_PROTOCOL_REVISION, PROTOCOL_REVISION
from backbench.domain.errors import UntrustedAgent
from backbench.domain.security import LOCAL_CALLER, AgentSecurity
from backbench.v1 import device_pb2, device_pb2_grpc, security_pb2, security_pb2_grpc
from backbench.wire import certificates as wire

OWN, ANOTHERS = "d1d1d1d1", "d2d2d2d2"


class Liar(security_pb2_grpc.SecurityServiceServicer, device_pb2_grpc.DeviceServiceServicer):
    """Has a certificate of its own and says that it is another device."""

    def __init__(self) -> None:
        self.key = wire.new_key()
        self.public_key_der = wire.public_key_der(self.key.public_key())
        self.installed: list[bytes] = []
        self.revocations: list[bytes] = []

    def GetSecurity(self, request: Any, context: Any) -> security_pb2.GetSecurityResponse:  # noqa: ARG002, N802
        caller = security_pb2.Caller(name="keeper", role=security_pb2.ROLE_ADMIN)
        return security_pb2.GetSecurityResponse(device_id=ANOTHERS, public_key_der=self.public_key_der, caller=caller)

    def InstallCertificate(self, request: Any, context: Any) -> security_pb2.InstallCertificateResponse:  # noqa: ARG002, N802
        self.installed.append(request.certificate_pem)
        return security_pb2.InstallCertificateResponse()

    def InstallRevocations(self, request: Any, context: Any) -> security_pb2.InstallRevocationsResponse:  # noqa: ARG002, N802
        self.revocations.append(request.revocations_pem)
        return security_pb2.InstallRevocationsResponse(revocation_number=1)

    def GetDevice(self, request: Any, context: Any) -> device_pb2.GetDeviceResponse:  # noqa: ARG002, N802
        device = device_pb2.Device(
            device_id=ANOTHERS,
            protocol_revision=PROTOCOL_REVISION,
            min_protocol_revision=MIN_PROTOCOL_REVISION,
        )
        return device_pb2.GetDeviceResponse(device=device)


@pytest.fixture
def authority(store: Store) -> Authority:
    return Pki(store.root).init()


@pytest.fixture
def liar() -> Liar:
    return Liar()  # type: ignore[abstract]


@pytest.fixture
def address(liar: Liar, authority: Authority) -> Iterator[str]:
    signed, _ = authority.sign_device(AgentSecurity(OWN, liar.public_key_der, (), LOCAL_CALLER), "pi5")
    files = (wire.key_to_pem(liar.key), signed)
    credentials = grpc.ssl_server_credentials([files], authority.certificate_pem, require_client_auth=True)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    security_pb2_grpc.add_SecurityServiceServicer_to_server(liar, server)
    device_pb2_grpc.add_DeviceServiceServicer_to_server(liar, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_device_gets_no_certificate_of_the_device_that_it_says_it_is(
    store: Store, authority: Authority, liar: Liar, address: str
) -> None:
    record = DeviceRecord("pi5", address, 1, None, device_id=OWN)
    store.put_device(record)
    issued = authority.issued()
    with (
        client_of(store, record) as client,
        pytest.raises(UntrustedAgent, match=f"says that it is device '{ANOTHERS}', and its certificate"),
    ):
        contact(store, record, client)
    renewed, failures = renew(store, ["pi5"])
    assert renewed == ()
    assert isinstance(failures["pi5"], UntrustedAgent)
    assert (liar.installed, authority.issued()) == ([], issued)


def test_a_device_that_is_met_for_the_first_time_is_told_who_is_revoked_and_gets_no_certificate(
    store: Store, authority: Authority, liar: Liar, address: str
) -> None:
    issued = authority.issued()
    assert add_device(store, "pi5", address, tls=True).device_id == ANOTHERS
    assert liar.revocations == [authority.revocations_pem()]
    assert (liar.installed, authority.issued()[len(issued) :]) == ([], ())
    record = store.device("pi5")
    with client_of(store, record) as client, pytest.raises(UntrustedAgent, match="another device answers"):
        client.get_device()
