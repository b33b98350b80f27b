"""Turns every error that Backbench knows into its status, in one place; anything else is a mistake and says so."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc

from backbench.domain.errors import BackbenchError
from backbench.wire.status import code_of, text_of, trailers_of

log = logging.getLogger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler with its errors translated."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        for kind in ("unary_unary", "stream_unary"):
            if (call := getattr(handler, kind)) is not None:
                return handler._replace(**{kind: _unary(call)})
        for kind in ("unary_stream", "stream_stream"):
            if (call := getattr(handler, kind)) is not None:
                return handler._replace(**{kind: _stream(call)})
        return handler


def _unary(call: Any) -> Any:
    async def translated(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await call(request, context)
        except BackbenchError as error:
            await _refuse(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 - the edge of the process
            await _admit(context)

    return translated


def _stream(call: Any) -> Any:
    async def translated(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in call(request, context):
                yield response
        except BackbenchError as error:
            await _refuse(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 - the edge of the process
            await _admit(context)

    return translated


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], error: BackbenchError) -> NoReturn:
    await context.abort(code_of(error), text_of(error), trailers_of(error))


async def _admit(context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    log.exception("a mistake in the agent")
    await context.abort(grpc.StatusCode.INTERNAL, "a mistake in the agent; its log has the details")
