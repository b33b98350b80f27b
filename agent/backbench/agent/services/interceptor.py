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
from backbench.agent.services.handlers import Context, surrounded
from backbench.domain.errors import BackbenchError, DeadlineExceeded, InvalidArgument
from backbench.wire.status import code_of, text_of, trailers_of

log = logging.getLogger(__name__)

_CERTIFICATE = "x509_pem_cert"


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler. A caller that streams is ended when nothing came of it for `stall_s`."""

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
        return surrounded(handler, partial(self._guarded, method))

    @contextlib.asynccontextmanager
    async def _guarded(self, method: str, request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            with self._gate.call(method, context.peer(), _certificate_of(context)) as call:
                yield self._timed(request, call)
        except BackbenchError as error:
            await _refuse(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 - the edge of the process
            await _admit(context)

    def _timed(self, request: Any, call: Call) -> Any:
        if isinstance(request, BackbenchError):
            raise request
        return _unstalled(request, call, self._stall_s) if isinstance(request, AsyncIterator) else request


async def _unstalled(requests: AsyncIterator[Any], call: Call, stall_s: float) -> AsyncIterator[Any]:
    loop = asyncio.get_running_loop()
    late = DeadlineExceeded(f"nothing came for {stall_s:g} s; what was sent is kept, go on from the committed offset")
    while True:
        timer = loop.call_later(stall_s, call.end, late)
        try:
            request = await anext(requests)
        except StopAsyncIteration:
            return
        finally:
            timer.cancel()
        if isinstance(request, BackbenchError):
            raise request
        yield request


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
