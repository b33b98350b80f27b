"""Errors over a real server and a real channel on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2

from backbench.domain.errors import (
    ERRORS,
    AgentUnreachable,
    BackbenchError,
    Busy,
    CallCancelled,
    DeadlineExceeded,
    InvalidArgument,
    InvalidModel,
    MessageTooLarge,
    NotFound,
    PermissionDenied,
    QueueFull,
    Unauthenticated,
    VersionMismatch,
)
from backbench.v1 import error_pb2
from backbench.wire.status import STATUS_KEY, code_of, error_from_status, text_of, trailers_of

Context = grpc.aio.ServicerContext[bytes, bytes]
Unary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
Stream = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
TEXT = 'Gerät "orin-3": 20 % voll – noch einmal'


def sample(reason: str) -> BackbenchError:
    return ERRORS[reason](f"{reason}: {TEXT}", run_id="017f22e2", größe="µ")


async def abort(error: BackbenchError, context: Context) -> NoReturn:
    await context.abort(code_of(error), text_of(error), trailers_of(error))


async def unary(request: bytes, context: Context) -> bytes:
    await abort(sample(request.decode()), context)


async def long(request: bytes, context: Context) -> bytes:
    await abort(InvalidModel(request.decode() * 10_000, name=request.decode() * 10_000), context)


async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield b"first"
    yield b"second"
    await abort(sample(request.decode()), context)


async def bare(request: bytes, context: Context) -> bytes:
    await context.abort(grpc.StatusCode[request.decode()], "in short")


@asynccontextmanager
async def loopback() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Long": grpc.unary_unary_rpc_method_handler(long),
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Bare": grpc.unary_unary_rpc_method_handler(bare),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Errors", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def received(error: grpc.aio.AioRpcError) -> BackbenchError | None:
    return error_from_status(error.code(), error.details() or "", error.trailing_metadata())


async def test_every_error_of_an_agent_arrives_as_itself() -> None:
    arrived = {}
    async with loopback() as channel:
        call: Unary = channel.unary_unary("/test.Errors/Unary")
        for reason in ERRORS:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(reason.encode())
            arrived[reason] = received(caught.value)
    assert arrived == {reason: sample(reason) for reason in ERRORS}


def test_what_a_caller_sent_breaks_no_line_of_an_error() -> None:
    assert text_of(InvalidArgument('"a\n\x1b[2Jb\u2028" is no digest')) == '"a??[2Jb?" is no digest'


async def test_every_error_in_the_middle_of_a_stream_arrives_as_itself_after_what_was_sent() -> None:
    arrived = {}
    async with loopback() as channel:
        call: Stream = channel.unary_stream("/test.Errors/Stream")
        for reason in ERRORS:
            messages = []
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for message in call(reason.encode()):
                    messages.append(message)
            assert messages == [b"first", b"second"]
            arrived[reason] = received(caught.value)
    assert arrived == {reason: sample(reason) for reason in ERRORS}


BARE: dict[str, type[BackbenchError] | None] = {
    "UNAVAILABLE": AgentUnreachable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": CallCancelled,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": MessageTooLarge,
    "INVALID_ARGUMENT": InvalidArgument,
    "UNIMPLEMENTED": VersionMismatch,
    "INTERNAL": None,
    "UNKNOWN": None,
}


async def test_a_status_that_grpc_itself_made_maps_to_the_bare_error() -> None:
    arrived: dict[str, type[BackbenchError] | None] = {}
    async with loopback() as channel:
        call: Unary = channel.unary_unary("/test.Errors/Bare")
        for code in BARE:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(code.encode())
            error = received(caught.value)
            assert error is None or error.message == "in short"
            arrived[code] = None if error is None else type(error)
    assert arrived == BARE


async def test_a_method_that_the_agent_does_not_have_is_a_version_mismatch() -> None:
    async with loopback() as channel:
        call: Unary = channel.unary_unary("/test.Errors/FromTheFuture")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"")
    assert isinstance(received(caught.value), VersionMismatch)


@pytest.mark.parametrize("character", ["x", "字"])
async def test_an_endless_text_arrives_cut_and_with_its_reason(character: str) -> None:
    async with loopback() as channel:
        call: Unary = channel.unary_unary("/test.Errors/Long")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(character.encode())
    error = received(caught.value)
    assert isinstance(error, InvalidModel)
    assert error.message.startswith(character * 400)
    assert error.message.endswith(f"{character}…")
    assert error.details["name"].endswith(f"{character}…")


def test_a_name_that_is_not_utf_8_does_not_keep_an_error_from_being_sent() -> None:
    error = InvalidModel("cannot read caf\udce9.onnx", name="caf\udce9.onnx")
    arrived = error_from_status(code_of(error), text_of(error), trailers_of(error))
    assert arrived == InvalidModel("cannot read caf?.onnx", name="caf?.onnx")


def test_a_reason_of_a_newer_version_still_tells_its_group() -> None:
    detail = error_pb2.ErrorDetail(details={"run_id": "1"})
    detail.reason = 9999  # type: ignore[assignment]
    status = status_pb2.Status(code=10, message="text")
    status.details.add().Pack(detail)
    trailers = [(STATUS_KEY, status.SerializeToString())]
    assert error_from_status(grpc.StatusCode.ABORTED, "text", trailers) == Busy("text", run_id="1")
    assert error_from_status(grpc.StatusCode.NOT_FOUND, "text", trailers) == NotFound("text", run_id="1")
    assert error_from_status(grpc.StatusCode.INTERNAL, "text", trailers) is None


@pytest.mark.parametrize("value", [b"\xff\xff", b"", status_pb2.Status(details=[AnyMessage()]).SerializeToString()])
def test_details_that_do_not_parse_leave_the_bare_error(value: bytes) -> None:
    error = error_from_status(grpc.StatusCode.UNAVAILABLE, "gone", [("other", "x"), (STATUS_KEY, value)])
    assert error == AgentUnreachable("gone")


def test_an_error_of_which_the_contract_has_no_reason_cannot_be_sent() -> None:
    class Unlisted(QueueFull):
        reason = "UNLISTED"

    with pytest.raises(ValueError, match="ERROR_REASON_UNLISTED"):
        trailers_of(Unlisted("text"))
