"""The edge of the service: lets a call through the gate, and turns every error that Backbench knows into its status.

Anything else is a mistake in the agent and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from backbench.agent.security.gate import Call, Gate
from backbench.agent.services.handlers import Context, surrounded, taking_streams
from backbench.domain.errors import BackbenchError, DeadlineExceeded, InvalidArgument
from backbench.wire.status import code_of, text_of, trailers_of

log = logging.getLogger(__name__)

_CERTIFICATE = "x509_pem_cert"
_NO_MORE = object()


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler. A call is let in before its request is read, and ended when none came for `stall_s`."""

    def __init__(self, gate: Gate, stall_s: float) -> None:
        self._gate = gate
        self._stall_s = stall_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler behind the gate, with its errors translated."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        handler = handler._replace(request_deserializer=_tolerant(method, handler.request_deserializer))
        around = partial(self._guarded, method, handler.request_streaming)
        return surrounded(taking_streams(handler), around)

    @contextlib.asynccontextmanager
    async def _guarded(self, method: str, many: bool, requests: Any, context: Context) -> AsyncIterator[Any]:
        try:
            with self._gate.call(method, context.peer(), _certificate_of(context)) as call:
                yield self._every(requests, call) if many else await self._only(requests, call)
        except BackbenchError as error:
            await _refuse(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 - the edge of the process
            await _admit(context)

    async def _every(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        while (request := await self._next(requests, call)) is not _NO_MORE:
            yield request

    async def _only(self, requests: AsyncIterator[Any], call: Call) -> Any:
        if (request := await self._next(requests, call)) is _NO_MORE:
            raise InvalidArgument("the call ended before its request; try again")
        return request

    async def _next(self, requests: AsyncIterator[Any], call: Call) -> Any:
        late = DeadlineExceeded(
            f"nothing came for {self._stall_s:g} s; send it again, an upload from what is stored on"
        )
        timer = asyncio.get_running_loop().call_later(self._stall_s, call.end, late)
        try:
            request = await anext(requests, _NO_MORE)
        finally:
            timer.cancel()
        if isinstance(request, BackbenchError):
            raise request
        return request


def _tolerant(method: str, parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Bytes that are no message become an error that is raised behind the gate: gRPC would call them its own fault."""

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return InvalidArgument(f"what came for {method.rpartition('/')[2]} is not its message; update one side")

    return parsed


def _certificate_of(context: Context) -> bytes | None:
    found: Any = context.auth_context().get(_CERTIFICATE)
    return found[0] if found else None


async def _refuse(context: Context, error: BackbenchError) -> NoReturn:
    await context.abort(code_of(error), text_of(error), trailers_of(error))


async def _admit(context: Context) -> NoReturn:
    log.exception("a mistake in the agent")
    await context.abort(grpc.StatusCode.INTERNAL, "a mistake in the agent; its log has the details")
