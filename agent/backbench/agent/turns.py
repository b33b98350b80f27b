"""Turns among the runs of a group: in every round each of them once, forwards and backwards by turns (A B B A).

So a slow drift of the device falls on all of them alike.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from backbench.agent.supervisor import Stopped


class Turns:
    """Who of `members` is next. A member that ends must be retired, or the others wait for it for ever."""

    def __init__(self, members: Sequence[str]) -> None:
        self._members = list(members)
        self._round = list(members)
        self._forwards = True
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def turn(self, member: str, stop: asyncio.Event) -> AsyncIterator[None]:
        """The member's turn, from when it comes to the end of the block. Raises Stopped when `stop` is set before."""
        stopping = asyncio.ensure_future(self._wake_on(stop))
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: stop.is_set() or self._round[0] == member)
        finally:
            stopping.cancel()
        if stop.is_set():
            raise Stopped
        try:
            yield
        finally:
            await self._end_turn(member)

    async def retire(self, member: str) -> None:
        """Take the member out of this round and all that follow."""
        async with self._changed:
            self._members.remove(member)
            if member in self._round:
                self._round.remove(member)
            self._next_round()
            self._changed.notify_all()

    async def _end_turn(self, member: str) -> None:
        async with self._changed:
            self._round.remove(member)
            self._next_round()
            self._changed.notify_all()

    def _next_round(self) -> None:
        if not self._round:
            self._forwards = not self._forwards
            self._round = self._members if self._forwards else self._members[::-1]
            self._round = list(self._round)

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        async with self._changed:
            self._changed.notify_all()
