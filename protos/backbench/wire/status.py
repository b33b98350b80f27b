"""Errors to gRPC statuses and back: the one place where the two meet.

The text travels as the status message; the reason and the nouns in an ErrorDetail inside a google.rpc.Status, in the
standard trailing metadata key, so that any gRPC client can read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from backbench.domain.errors import (
    ERRORS,
    AgentUnreachable,
    BackbenchError,
    CallCancelled,
    DeadlineExceeded,
    InvalidArgument,
    MessageTooLarge,
    PermissionDenied,
    Unauthenticated,
    VersionMismatch,
)
from backbench.v1 import error_pb2

STATUS_KEY = "grpc-status-details-bin"
_PREFIX = "ERROR_REASON_"
# gRPC refuses metadata above 8 KiB, and the text travels twice, once with up to three bytes for one.
_TEXT_BYTES = 1500
_NOUN_BYTES = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What would break a line or steer a terminal, in a text that repeats what a caller sent."""
# What a status without a detail means: gRPC itself made it.
_BARE: dict[grpc.StatusCode, type[BackbenchError]] = {
    grpc.StatusCode.UNAVAILABLE: AgentUnreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: CallCancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: MessageTooLarge,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.UNIMPLEMENTED: VersionMismatch,
}
_GROUPS = {grpc.StatusCode[group.code]: group for group in BackbenchError.__subclasses__()}


def code_of(error: BackbenchError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return grpc.StatusCode[error.code]


def text_of(error: BackbenchError) -> str:
    """The status message of an error: its text in one line, cut where a longer one would not fit into the metadata."""
    return _cut(_CONTROL.sub("?", error.message), _TEXT_BYTES)


def trailers_of(error: BackbenchError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries an error's reason and nouns."""
    nouns = {_cut(name, _NOUN_BYTES): _cut(value, _NOUN_BYTES) for name, value in error.details.items()}
    detail = error_pb2.ErrorDetail(reason=error_pb2.ErrorReason.Value(_PREFIX + error.reason), details=nouns)
    number: int = code_of(error).value[0]
    status = status_pb2.Status(code=number, message=text_of(error))
    status.details.add().Pack(detail)
    return ((STATUS_KEY, status.SerializeToString()),)


def error_from_status(
    code: grpc.StatusCode, message: str, trailers: Iterable[tuple[str, str | bytes]]
) -> BackbenchError | None:
    """The error that a status stands for; None when it stands for a mistake in the agent.

    A reason that this version does not know still tells its group, by the code: what to do stays the same.
    """
    for key, value in trailers:
        if key == STATUS_KEY and isinstance(value, bytes):
            detail = _detail(value)
            if detail is not None:
                cls = _class_of(detail, code)
                if cls is not None:
                    return cls(message, **dict(detail.details))
    cls = _BARE.get(code)
    return None if cls is None else cls(message)


def _class_of(detail: error_pb2.ErrorDetail, code: grpc.StatusCode) -> type[BackbenchError] | None:
    if detail.reason not in error_pb2.ErrorReason.values():
        return _GROUPS.get(code)
    return ERRORS.get(error_pb2.ErrorReason.Name(detail.reason).removeprefix(_PREFIX))


def _cut(text: str, limit: int) -> str:
    # What UTF-8 cannot carry, such as the odd bytes of a file's name, becomes a question mark.
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode("utf-8")
    return data[: limit - 3].decode("utf-8", "ignore") + "…"


def _detail(value: bytes) -> error_pb2.ErrorDetail | None:
    try:
        status = status_pb2.Status.FromString(value)
        for packed in status.details:
            detail = error_pb2.ErrorDetail()
            if packed.Unpack(detail):
                return detail
    except DecodeError:
        return None
    return None
