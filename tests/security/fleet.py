"""A fleet's authority and its certificates, agents that speak TLS, and callers of every kind."""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from backbench.agent.__main__ import main
from backbench.agent.local import LocalAgent
from backbench.domain.errors import BackbenchError
from backbench.domain.security import Role
from backbench.v1 import security_pb2 as pb
from backbench.v1 import security_pb2_grpc
from backbench.wire import certificates as c
from backbench.wire import pairing as codes
from backbench.wire.status import error_from_status

DEADLINE_S = 30.0
Error = TypeVar("Error", bound=BackbenchError)


class Authority:
    """What a controller keeps of its fleet."""

    def __init__(self) -> None:
        self.key = c.new_key()
        self.certificate = c.make_authority(self.key, "fleet")
        self.fleet_id = c.fleet_id_of(self.certificate)
        self.pem = c.to_pem(self.certificate)
        self.number = 0
        self.revoked: set[int] = set()

    def client(
        self, role: Role | None = Role.OPERATOR, name: str = "ann", lifetime_s: float = 3600, began_s: float = 0
    ) -> Client:
        """Somebody with a certificate of this fleet; without a role it is a device's."""
        key, lifetime = c.new_key(), datetime.timedelta(seconds=lifetime_s)
        began = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=began_s)
        public = key.public_key()
        if role is None:
            signed = c.sign_device(self.key, self.certificate, public, name, lifetime=lifetime, now=began)
        else:
            signed = c.sign_client(self.key, self.certificate, public, name, role, lifetime=lifetime, now=began)
        return Client(c.key_to_pem(key), c.to_pem(signed), self.pem, c.any_device_name(self.fleet_id))

    def revoke(self, *clients: Client) -> bytes:
        """The next list of revoked certificates."""
        self.number += 1
        self.revoked |= {client.serial for client in clients}
        return self.revocations()

    def revocations(self, number: int | None = None) -> bytes:
        """The list as it stands, PEM."""
        number = self.number if number is None else number
        return c.to_pem(c.make_revocations(self.key, self.certificate, self.revoked, number))

    def membership(self, agent: pb.GetSecurityResponse, **changes: Any) -> pb.InstallCertificateRequest:
        """A request that makes an agent a member."""
        public = c.public_key_from_der(agent.public_key_der)
        signed = c.sign_device(self.key, self.certificate, public, agent.device_id)
        fields = {"certificate_pem": c.to_pem(signed), "authority_pem": self.pem, **changes}
        return pb.InstallCertificateRequest(**{"revocations_pem": self.revocations(), **fields})


class Client:
    """A caller: its key and certificate, whom it trusts, and the name that it asks for."""

    def __init__(self, key_pem: bytes, certificate_pem: bytes, authority_pem: bytes, server_name: str) -> None:
        self.key_pem = key_pem
        self.certificate_pem = certificate_pem
        self.authority_pem = authority_pem
        self.server_name = server_name

    @classmethod
    def with_code(cls, code: str) -> Client:
        """The holder of a pairing code."""
        key = c.new_key()
        certificate = c.to_pem(codes.sign_pairing_client(code, key.public_key()))
        return cls(c.key_to_pem(key), certificate, c.to_pem(codes.pairing_authority(code)[1]), codes.pairing_name(code))

    @property
    def serial(self) -> int:
        return c.certificate_from_pem(self.certificate_pem).serial_number

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        return (("grpc.ssl_target_name_override", self.server_name), ("grpc.use_local_subchannel_pool", 1))

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority_pem, self.key_pem, self.certificate_pem)

    def channel(self, address: str) -> grpc.Channel:
        """A connection of its own."""
        return grpc.secure_channel(address, self.credentials, self.options)

    def security(self, address: str) -> pb.GetSecurityResponse:
        """Asks the agent who it is, and who asks."""
        with self.channel(address) as channel:
            return security_of(channel)


class TlsAgent:
    """`backbench-agent serve --tls` on a free port of loopback."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        self.data_dir = folder / "data"
        self.log_path = folder / "log"
        command = [sys.executable, "-m", "backbench.agent", "serve", "--listen", "127.0.0.1:0", *arguments]
        # A command of the controller that another test ran in this process has silenced gRPC for all its children.
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().removeprefix("listening on ").strip()

    def printed_code(self) -> str:
        """The code that an agent prints which belongs to no fleet."""
        assert self.process.stdout is not None
        found = re.fullmatch(
            r"pairing code (\S+) \(10 minutes\): backbench pair (\S+)\n", self.process.stdout.readline()
        )
        assert found is not None
        assert found[2] == self.address
        return found[1]

    def command(self, *arguments: str) -> Done:
        """A command of the device, on this agent's folder."""
        return agent_command(*arguments, "--data-dir", str(self.data_dir))

    def new_code(self) -> str:
        """A pairing code."""
        with LocalAgent(self.data_dir) as local:
            return local.open_pairing(0)[0]

    def join(self, authority: Authority) -> None:
        """Make it a member of a fleet."""
        with Client.with_code(self.new_code()).channel(self.address) as channel:
            install(channel, authority.membership(security_of(channel)))

    def log(self) -> str:
        return self.log_path.read_text()

    def stop(self) -> None:
        """End it in good order."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert "Traceback" not in self.log(), self.log()


@dataclass(frozen=True)
class Done:
    """What a command ended with and wrote."""

    status: int
    stdout: str
    stderr: str


def agent_command(*arguments: str) -> Done:
    """`backbench-agent` with these arguments, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(arguments))
        except SystemExit as end:
            status = int(end.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def security_of(channel: grpc.Channel) -> pb.GetSecurityResponse:
    stub = security_pb2_grpc.SecurityServiceStub(channel)
    return stub.GetSecurity(pb.GetSecurityRequest(), timeout=DEADLINE_S)


def install(channel: grpc.Channel, request: pb.InstallCertificateRequest) -> None:
    security_pb2_grpc.SecurityServiceStub(channel).InstallCertificate(request, timeout=DEADLINE_S)


def install_revocations(channel: grpc.Channel, revocations_pem: bytes) -> int:
    stub = security_pb2_grpc.SecurityServiceStub(channel)
    request = pb.InstallRevocationsRequest(revocations_pem=revocations_pem)
    return stub.InstallRevocations(request, timeout=DEADLINE_S).revocation_number


def refused(cls: type[Error], call: Callable[[], object]) -> Error:
    """The error of this kind that the call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status: Any = caught.value
    error = error_from_status(status.code(), status.details() or "", status.trailing_metadata() or ())
    assert type(error) is cls, error
    return error


def cut_off(call: Callable[[], object]) -> None:
    """The call must not get as far as the agent: TLS itself ends it."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status: Any = caught.value
    assert status.code() is grpc.StatusCode.UNAVAILABLE, status


def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
