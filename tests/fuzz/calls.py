"""Calls that send any bytes to any method of a real agent, and what may come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from backbench.domain.errors import ERRORS
from backbench.v1 import artifact_pb2, device_pb2, error_pb2, run_pb2, security_pb2
from backbench.wire.status import STATUS_KEY

DEADLINE_S = 5.0
_MODULES = (device_pb2, artifact_pb2, run_pb2, security_pb2)
_PREFIX = "ERROR_REASON_"
_CODES = {error.code for error in ERRORS.values()}


@dataclass(frozen=True)
class Method:
    """One remote procedure."""

    path: str
    request: Descriptor
    client_streams: bool
    server_streams: bool

    def __str__(self) -> str:
        return self.path.rpartition("/")[2]


def _method(descriptor: MethodDescriptor) -> Method:
    service = descriptor.containing_service.full_name
    path = f"/{service}/{descriptor.name}"
    return Method(path, descriptor.input_type, descriptor.client_streaming, descriptor.server_streaming)


METHODS = tuple(
    _method(method)
    for module in _MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
"""Every one of the wire contract."""


def call(channel: grpc.Channel, method: Method, requests: Sequence[bytes]) -> str:
    """The name of the status and its reason. AssertionError for one that is not of the contract, or none in time."""
    try:
        _take(channel, method, requests)
    except grpc.RpcError as error:
        return _judged(error, sum(map(len, requests)))
    return "OK"


def _take(channel: grpc.Channel, method: Method, requests: Sequence[bytes]) -> None:
    if method.client_streams:
        upward: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(method.path)
        upward(iter(requests), timeout=DEADLINE_S)
    elif method.server_streams:
        downward: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(method.path)
        answers = downward(requests[0], timeout=DEADLINE_S)
        _first(answers)
        answers.cancel()
    else:
        plain: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method.path)
        plain(requests[0], timeout=DEADLINE_S)


def _first(answers: Iterable[bytes]) -> None:
    for _ in answers:
        return


def _judged(error: grpc.RpcError, size: int) -> str:
    code, text = error.code(), error.details()
    reasons = list(_reasons(error))
    # gRPC itself turns away what is larger than a message may be, before there is anybody who could say why.
    too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and size > 1 << 22
    assert code.name in _CODES, f"{code.name}: {text}"
    assert reasons or too_large, f"{code.name} without a reason: {text}"
    assert all(reason in ERRORS for reason in reasons), reasons
    assert "\n" not in (text or ""), text
    return f"{code.name} {' '.join(reasons)}"


def _reasons(error: grpc.RpcError) -> Iterator[str]:
    trailers: Iterable[tuple[str, bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    for key, value in trailers:
        if key != STATUS_KEY:
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except DecodeError:
            continue
        for packed in status.details:
            detail = error_pb2.ErrorDetail()
            if packed.Unpack(detail):
                yield error_pb2.ErrorReason.Name(detail.reason).removeprefix(_PREFIX)
