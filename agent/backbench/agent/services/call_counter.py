"""Counts the calls of every service by method and status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc

from backbench.agent.meters import Meters
from backbench.agent.services.handlers import Context, surrounded

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
        return surrounded(handler, partial(self._counted, handler_call_details.method))

    @contextlib.asynccontextmanager
    async def _counted(self, method: str, request: Any, context: Context) -> AsyncIterator[Any]:
        cancelled = False
        try:
            yield request
        except (asyncio.CancelledError, GeneratorExit):
            cancelled = True
            raise
        finally:
            self._meters.calls[method, "CANCELLED" if cancelled else _status(context)] += 1


def _status(context: Context) -> str:
    code: Any = context.code()  # type: ignore[no-untyped-call,unused-ignore]
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code or 0
    return _NAMES.get(number, "UNKNOWN")
