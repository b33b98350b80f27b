"""Something of one's own around the handlers of a service, whichever of gRPC's four kinds they are."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
Around = Callable[[Any, Context], AbstractAsyncContextManager[Any]]
"""What a call happens in, from a request (or the stream of them) and the context; it gives the request to pass on."""


def surrounded(handler: Any, around: Around) -> Any:
    """The handler inside `around`; a stream's handler is inside it to the end of the stream."""
    for kind in ("unary_unary", "stream_unary"):
        if (call := getattr(handler, kind)) is not None:
            return handler._replace(**{kind: _answering(call, around)})
    for kind in ("unary_stream", "stream_stream"):
        if (call := getattr(handler, kind)) is not None:
            return handler._replace(**{kind: _streaming(call, around)})
    return handler


def taking_streams(handler: Any) -> Any:
    """The handler as one that is called before its request has come, whose `around` is to wait for it.

    By itself gRPC calls a handler of one request only with that request: nobody would know who keeps it waiting.
    """
    if handler.request_streaming:
        return handler
    return handler._replace(
        request_streaming=True,
        unary_unary=None,
        unary_stream=None,
        stream_unary=handler.unary_unary,
        stream_stream=handler.unary_stream,
    )


def _answering(call: Any, around: Around) -> Any:
    async def inside(request: Any, context: Context) -> Any:
        async with around(request, context) as passed:
            return await call(passed, context)

    return inside


def _streaming(call: Any, around: Around) -> Any:
    async def inside(request: Any, context: Context) -> AsyncIterator[Any]:
        async with around(request, context) as passed:
            responses = call(passed, context)
            if inspect.isawaitable(responses):  # it writes them itself, as the health service does
                await responses
                return
            async for response in responses:
                yield response

    return inside
