"""What one caller may do at most, on an agent in this process over a real socket."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from tests.security.fleet import DEADLINE_S, Authority, Client

from backbench.agent.security.gate import Gate
from backbench.agent.security.pairing import PairingCodes
from backbench.agent.server import Agent
from backbench.agent.settings import CallLimits, Settings
from backbench.domain.errors import (
    BackbenchError,
    DeadlineExceeded,
    InvalidArgument,
    PermissionDenied,
    TooManyCalls,
    Unauthenticated,
)
from backbench.domain.security import Role
from backbench.v1 import artifact_pb2, artifact_pb2_grpc, device_pb2, device_pb2_grpc, security_pb2_grpc
from backbench.v1 import security_pb2 as pb
from backbench.wire import certificates as c
from backbench.wire.status import error_from_status

Error = TypeVar("Error", bound=BackbenchError)
LIMITS = CallLimits(concurrent=3, per_second=0.001, burst=20)
STALL_S = 1.0


class Running:
    """An agent of one fleet."""

    def __init__(self, agent: Agent, port: int, authority: Authority) -> None:
        self.agent = agent
        self.address = f"127.0.0.1:{port}"
        self.authority = authority

    def channel(self, client: Client) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self.address, client.credentials, client.options)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    settings = Settings("127.0.0.1:0", tmp_path, tls=True, call_limits=LIMITS, upload_stall_s=STALL_S)
    agent, authority = Agent(settings), Authority()
    security = agent.security
    found = pb.GetSecurityResponse(device_id=security.device_id, public_key_der=c.public_key_der(security.key.public))
    request = authority.membership(found)
    security.fleets.join(request.certificate_pem, request.authority_pem, request.revocations_pem)
    yield Running(agent, await agent.start(), authority)
    await agent.stop()


async def refused(cls: type[Error], call: Awaitable[object]) -> Error:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = caught.value
    error = error_from_status(status.code(), status.details() or "", tuple(status.trailing_metadata()))
    assert type(error) is cls, error
    return error


def security_of(channel: grpc.aio.Channel) -> Awaitable[pb.GetSecurityResponse]:
    stub: Any = security_pb2_grpc.SecurityServiceStub(channel)
    call: Awaitable[pb.GetSecurityResponse] = stub.GetSecurity(pb.GetSecurityRequest(), timeout=DEADLINE_S)
    return call


async def test_one_caller_has_so_many_calls_in_progress_and_others_have_theirs(running: Running) -> None:
    client, other = running.authority.client(), running.authority.client(name="bea")
    async with running.channel(client) as channel, running.channel(other) as another:
        stub: Any = device_pb2_grpc.DeviceServiceStub(channel)
        watching = [stub.WatchTelemetry(device_pb2.WatchTelemetryRequest()) for _ in range(3)]
        for each in watching:
            await each.read()
        error = await refused(TooManyCalls, security_of(channel))
        assert error.message == "ann has 3 calls in progress, which is the most; end some"
        assert (await security_of(another)).caller.name == "bea"
        watching[0].cancel()
        await succeeds(lambda: security_of(channel))


async def test_one_caller_makes_so_many_calls_a_second_and_its_refusals_are_one_line(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client, other = running.authority.client(), running.authority.client(name="bea")
    async with running.channel(client) as channel, running.channel(other) as another:
        for _ in range(20):
            await security_of(channel)
        with caplog.at_level(logging.WARNING, "backbench.agent.security.gate"):
            for _ in range(5):
                await refused(TooManyCalls, security_of(channel))
        assert [record.getMessage().count("TOO_MANY_CALLS") for record in caplog.records] == [1]
        assert await security_of(another)


async def test_calls_whose_request_does_not_come_count_and_are_ended(running: Running) -> None:
    client, other = running.authority.client(Role.VIEWER), running.authority.client(Role.VIEWER, "bea")
    over = asyncio.Event()

    async def nothing() -> AsyncIterator[pb.GetSecurityRequest]:
        await over.wait()
        yield pb.GetSecurityRequest()

    async with running.channel(client) as channel, running.channel(other) as another:
        call: Any = channel.stream_unary(
            "/backbench.v1.SecurityService/GetSecurity",
            request_serializer=pb.GetSecurityRequest.SerializeToString,
            response_deserializer=pb.GetSecurityResponse.FromString,
        )
        waiting = [asyncio.ensure_future(anyhow(call(nothing(), timeout=DEADLINE_S))) for _ in range(4)]
        codes = [await each for each in waiting]
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 1
        assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == 3
        assert (await security_of(another)).caller.name == "bea"
        over.set()


async def test_a_call_that_ends_without_its_request_is_said_to(running: Running) -> None:
    async def nothing() -> AsyncIterator[pb.GetSecurityRequest]:
        return
        yield

    async with running.channel(running.authority.client()) as channel:
        call: Any = channel.stream_unary(
            "/backbench.v1.SecurityService/GetSecurity",
            request_serializer=pb.GetSecurityRequest.SerializeToString,
            response_deserializer=pb.GetSecurityResponse.FromString,
        )
        error = await refused(InvalidArgument, call(nothing(), timeout=DEADLINE_S))
        assert "ended before its request" in error.message


async def test_refused_calls_count_too(running: Running) -> None:
    delete = artifact_pb2.DeleteArtifactRequest(sha256="ab" * 32)
    async with running.channel(running.authority.client(Role.VIEWER)) as channel:
        stub: Any = artifact_pb2_grpc.ArtifactServiceStub(channel)
        for _ in range(20):
            await refused(PermissionDenied, stub.DeleteArtifact(delete, timeout=DEADLINE_S))
        await refused(TooManyCalls, stub.DeleteArtifact(delete, timeout=DEADLINE_S))


async def test_all_certificates_of_one_pairing_code_are_one_caller(running: Running) -> None:
    assert running.agent.security.codes is not None
    code, _ = running.agent.security.codes.open(60)
    one, two = Client.with_code(code), Client.with_code(code)
    async with running.channel(one) as channel, running.channel(two) as another:
        for _ in range(20):
            await security_of(channel)
        await refused(TooManyCalls, security_of(another))


async def test_whoever_is_refused_all_the_time_does_not_fill_the_log(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    gate = running.agent.security.gate
    with caplog.at_level(logging.WARNING, "backbench.agent.security.gate"):
        for _ in range(1000):
            with pytest.raises(Unauthenticated), gate.call("/any", "ipv4:10.0.0.7:4711", b"no certificate"):
                pass
        assert 0 < len(caplog.records) < 500
        with pytest.raises(Unauthenticated), gate.call("/any", "ipv4:10.0.0.8:4711", None):
            pass
    assert "10.0.0.8" in caplog.records[-1].getMessage()


async def test_an_upload_that_stalls_is_ended_and_what_came_is_kept(running: Running) -> None:
    sha256, name = "ab" * 32, "slow.onnx"

    async def pieces() -> AsyncIterator[artifact_pb2.UploadRequest]:
        header = artifact_pb2.UploadHeader(sha256=sha256, size_bytes=1000, name=name)
        yield artifact_pb2.UploadRequest(header=header, data=b"x" * 400)
        yield artifact_pb2.UploadRequest(offset=400, data=b"x" * 100)
        await asyncio.sleep(DEADLINE_S)

    async with running.channel(running.authority.client()) as channel:
        stub: Any = artifact_pb2_grpc.ArtifactServiceStub(channel)
        error = await refused(DeadlineExceeded, stub.Upload(pieces(), timeout=DEADLINE_S))
        assert "nothing came for 1 s" in error.message
        found = await stub.QueryUpload(artifact_pb2.QueryUploadRequest(sha256=sha256), timeout=DEADLINE_S)
        assert (found.committed_bytes, found.complete) == (500, False)


async def test_an_upload_that_is_slow_but_goes_on_is_not_ended(running: Running) -> None:
    async def pieces() -> AsyncIterator[artifact_pb2.UploadRequest]:
        header = artifact_pb2.UploadHeader(sha256="cd" * 32, size_bytes=1000)
        for at in range(4):
            yield artifact_pb2.UploadRequest(header=header if at == 0 else None, offset=at, data=b"x")
            await asyncio.sleep(STALL_S * 0.4)

    async with running.channel(running.authority.client()) as channel:
        stub: Any = artifact_pb2_grpc.ArtifactServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Upload(pieces(), timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS  # it ended early, and said where to go on


async def test_an_expired_code_is_told_from_a_wrong_one(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = running.agent.security.codes
    assert isinstance(codes, PairingCodes)
    code, _ = codes.open(60)
    monkeypatch.setattr(codes, "_clock", lambda: time.monotonic() + 61)
    async with running.channel(Client.with_code(code)) as channel:
        assert "has expired" in (await refused(PermissionDenied, security_of(channel))).message


async def test_what_is_for_users_of_the_device_is_for_nobody_else_in_plain_text_either() -> None:
    gate = Gate(None, CallLimits())
    remove = "/backbench.v1.SecurityService/RemoveFleet"
    for peer in ("ipv4:10.1.2.3:4711", "ipv6:[2001:db8::1]:4711", "ipv6:%5B2001:db8::1%5D:4711"):
        with pytest.raises(PermissionDenied, match="users of the device"), gate.call(remove, peer, None):
            pass
    for peer in ("unix:", "ipv4:127.0.0.1:4711", "ipv6:[::1]:4711", "ipv6:%5B::1%5D:4711"):
        with gate.call(remove, peer, None) as call:
            assert call.holder is None


async def test_a_role_is_looked_up_for_every_call(running: Running) -> None:
    async with running.channel(running.authority.client(Role.VIEWER)) as channel:
        stub: Any = artifact_pb2_grpc.ArtifactServiceStub(channel)
        await stub.ListArtifacts(artifact_pb2.ListArtifactsRequest(), timeout=DEADLINE_S)
        delete = artifact_pb2.DeleteArtifactRequest(sha256="ab" * 32)
        await refused(PermissionDenied, stub.DeleteArtifact(delete, timeout=DEADLINE_S))


async def anyhow(call: Awaitable[object]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def succeeds(call: Any) -> None:
    """Make the call until it is answered."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        else:
            return
