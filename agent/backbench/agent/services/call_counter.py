"""Counts the calls of every service by method and status."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc

from backbench.agent.meters import Meters

Context = grpc.aio.ServicerContext[Any, Any]
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallCounter(grpc.aio.ServerInterceptor):
    """The outermost interceptor: it sees what a call came to when all others have had their say."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler with its calls counted."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        for kind in ("unary_unary", "stream_unary"):
            if (call := getattr(handler, kind)) is not None:
                return handler._replace(**{kind: self._unary(method, call)})
        for kind in ("unary_stream", "stream_stream"):
            if (call := getattr(handler, kind)) is not None:
                return handler._replace(**{kind: self._stream(method, call)})
        return handler

    def _unary(self, method: str, handler: Any) -> Any:
        async def counted(request: Any, context: Context) -> Any:
            with self._counting(method, context):
                return await handler(request, context)

        return counted

    def _stream(self, method: str, handler: Any) -> Any:
        async def counted(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._counting(method, context):
                responses = handler(request, context)
                if inspect.isawaitable(responses):  # it writes them itself, as the health service does
                    await responses
                    return
                async for response in responses:
                    yield response

        return counted

    @contextlib.contextmanager
    def _counting(self, method: str, context: Context) -> Iterator[None]:
        cancelled = False
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            cancelled = True
            raise
        finally:
            self._meters.calls[method, "CANCELLED" if cancelled else _status(context)] += 1


def _status(context: Context) -> str:
    code: Any = context.code()  # type: ignore[no-untyped-call,unused-ignore]
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code or 0
    return _NAMES.get(number, "UNKNOWN")
