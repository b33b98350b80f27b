from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from backbench.controller.client import AgentClient, Security, calls
from backbench.controller.client.calls import Calls
from backbench.domain.errors import (
    AgentStopping,
    AgentUnreachable,
    BackbenchError,
    DeadlineExceeded,
    InvalidArgument,
    QueueFull,
    RunNotFound,
    VersionMismatch,
)
from backbench.v1 import device_pb2, device_pb2_grpc, run_pb2, run_pb2_grpc
from backbench.wire.status import code_of, trailers_of

Serve = Callable[..., str]


def _refuse(context: Any, error: BackbenchError) -> None:
    context.set_trailing_metadata(trailers_of(error))
    context.abort(code_of(error), error.message)


class Stumbling(device_pb2_grpc.DeviceServiceServicer, run_pb2_grpc.RunServiceServicer):
    """Answers with `failures` first, each once."""

    def __init__(self, *failures: grpc.StatusCode | BackbenchError) -> None:
        self.failures = list(failures)
        self.calls = 0

    def _stumble(self, context: Any) -> None:
        self.calls += 1
        if not self.failures:
            return
        failure = self.failures.pop(0)
        if isinstance(failure, BackbenchError):
            _refuse(context, failure)
        context.abort(failure, "stumbled")

    def GetDevice(self, request: Any, context: Any) -> device_pb2.GetDeviceResponse:  # noqa: ARG002, N802
        self._stumble(context)
        return device_pb2.GetDeviceResponse(device=device_pb2.Device(device_id="d1"))

    def DeleteRun(self, request: Any, context: Any) -> run_pb2.DeleteRunResponse:  # noqa: ARG002, N802
        self._stumble(context)
        return run_pb2.DeleteRunResponse()


def stumbling(*failures: grpc.StatusCode | BackbenchError) -> Stumbling:
    return Stumbling(*failures)  # type: ignore[abstract]  # the calls that are not made need no answer


def _closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_an_idempotent_call_is_repeated_until_the_agent_answers(serve: Serve) -> None:
    agent = stumbling(grpc.StatusCode.UNAVAILABLE, AgentStopping("the agent is going down"))
    with AgentClient(serve(devices=agent)) as client:
        assert client.get_device().device_id == "d1"
    assert agent.calls == 3


def test_many_controllers_do_not_come_back_at_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append))
    agent = stumbling(*[grpc.StatusCode.UNAVAILABLE] * 4)
    with AgentClient(serve(devices=agent)) as client:
        client.get_device()
    assert [0.5 <= pause / (0.1 * 2**place) <= 1.5 for place, pause in enumerate(pauses)] == [True] * 4
    assert len({pause / 2**place for place, pause in enumerate(pauses)}) == 4


def test_a_call_that_must_not_arrive_twice_is_sent_once(serve: Serve) -> None:
    agent = stumbling(grpc.StatusCode.UNAVAILABLE)
    with AgentClient(serve(runs=agent)) as client, pytest.raises(AgentUnreachable):
        client.delete_run("r1")
    assert agent.calls == 1


def test_only_unavailability_is_tried_again(serve: Serve) -> None:
    agent = stumbling(QueueFull("full"), QueueFull("full"))
    with AgentClient(serve(devices=agent)) as client, pytest.raises(QueueFull, match="full"):
        client.get_device()
    assert agent.calls == 1


def test_an_unreachable_agent_is_named_with_the_time_and_what_to_check() -> None:
    address = f"127.0.0.1:{_closed_port()}"
    with AgentClient(address, patience_s=0.4) as client, pytest.raises(AgentUnreachable) as caught:
        client.get_device()
    assert address in caught.value.message
    assert "tried for 0." in caught.value.message
    assert "connection refused" in caught.value.message
    assert "backbench-agent serve" in caught.value.message
    assert caught.value.exit_status == 3


def test_a_name_that_does_not_resolve_is_said_to_be_that() -> None:
    with (
        AgentClient("no-such-host.invalid", Security(insecure=True), patience_s=0.2) as client,
        pytest.raises(AgentUnreachable, match="does not resolve"),
    ):
        client.get_device()


def test_an_agent_that_comes_up_late_is_found() -> None:
    port = _closed_port()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    device_pb2_grpc.add_DeviceServiceServicer_to_server(stumbling(), server)
    late = threading.Timer(0.3, lambda: (server.add_insecure_port(f"127.0.0.1:{port}"), server.start()))
    late.start()
    try:
        with AgentClient(f"127.0.0.1:{port}") as client:
            assert client.get_device().device_id == "d1"
    finally:
        late.join()
        server.stop(None).wait()


class Silent(device_pb2_grpc.DeviceServiceServicer):
    def __init__(self) -> None:
        self.over = threading.Event()

    def GetDevice(self, request: Any, context: Any) -> device_pb2.GetDeviceResponse:  # noqa: ARG002, N802
        context.add_callback(self.over.set)
        self.over.wait(30)
        return device_pb2.GetDeviceResponse()


def test_no_answer_ends_with_the_deadline(serve: Serve) -> None:
    address = serve(devices=Silent())  # type: ignore[abstract]
    with grpc.insecure_channel(address) as channel:
        method = device_pb2_grpc.DeviceServiceStub(channel).GetDevice
        with pytest.raises(DeadlineExceeded, match="did not answer within"):
            Calls(address).repeated(method, device_pb2.GetDeviceRequest(), deadline_s=0.2)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.INTERNAL, BackbenchError),
        (grpc.StatusCode.UNKNOWN, BackbenchError),
        (grpc.StatusCode.UNIMPLEMENTED, VersionMismatch),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
    ],
)
def test_a_status_that_grpc_itself_made_is_a_domain_error_too(
    serve: Serve, code: grpc.StatusCode, expected: type[BackbenchError]
) -> None:
    address = serve(devices=stumbling(code))
    with AgentClient(address) as client, pytest.raises(BackbenchError) as caught:
        client.get_device()
    assert type(caught.value) is expected
    assert address in caught.value.message
    assert "stumbled" in caught.value.message


def test_a_service_that_the_agent_lacks_is_a_version_mismatch(serve: Serve) -> None:
    words = "does not know this call.*update Backbench"
    with AgentClient(serve(runs=stumbling())) as client, pytest.raises(VersionMismatch, match=words):
        client.get_device()


def test_the_reason_of_a_typed_error_survives_the_way(serve: Serve) -> None:
    agent = stumbling(RunNotFound("no run r1", run_id="r1"))
    with AgentClient(serve(runs=agent)) as client, pytest.raises(RunNotFound) as caught:
        client.delete_run("r1")
    assert caught.value == RunNotFound("no run r1", run_id="r1")


def test_plain_text_beyond_this_machine_is_refused_and_names_the_flag() -> None:
    with pytest.raises(InvalidArgument, match="--insecure-plaintext"):
        AgentClient("10.1.2.3:50061")
    AgentClient("10.1.2.3:50061", Security(insecure=True)).close()
