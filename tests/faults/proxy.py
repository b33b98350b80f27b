"""A TCP proxy on loopback that misbehaves when told to: what a bad network does to a connection, on demand."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_BLOCK_BYTES = 64 << 10
_BYTE_PAUSE_S = 0.0005
_DOOR_S = 10.0


class Direction(enum.Enum):
    """Which way bytes go."""

    TO_AGENT = "to-agent"
    TO_CONTROLLER = "to-controller"


class Trouble(enum.Enum):
    """What happens to the connections that are open."""

    RESET = "reset"
    """Both ends get RST."""
    FINISH = "finish"
    """Both ends get FIN, with everything before it delivered."""
    STALL = "stall"
    """Nothing gets through for a while; then everything goes on."""
    TRICKLE = "trickle"
    """One byte at a time for a while."""
    AGENT_NOT_TOLD = "agent-not-told"
    """The controller's end is reset, the agent's stays open and silent."""
    CONTROLLER_NOT_TOLD = "controller-not-told"
    """The agent's end is reset, the controller's stays open and silent."""


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    controller: asyncio.StreamWriter
    agent: asyncio.StreamWriter
    silent: bool = False


class Proxy:
    """Forwards connections to `upstream` (HOST:PORT); a context manager with its own thread.

    `passed` counts the bytes that went each way since it was made.
    """

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._links: set[_Link] = set()
        self._free = asyncio.Event()
        self._trickle_until = 0.0
        self._armed: dict[Direction, tuple[int, Callable[[], None]]] = {}
        self._server: asyncio.Server | None = None
        self._port = 0
        self.passed = dict.fromkeys(Direction, 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._loop.call_soon_threadsafe(self._free.set)
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DOOR_S)
        self._loop.close()

    @property
    def address(self) -> str:
        """Where it listens; the same for its whole life."""
        return f"127.0.0.1:{self._port}"

    def up(self) -> None:
        """Listen."""
        self._call(self._listen())

    def down(self) -> None:
        """Refuse connections and reset those that are open, as a device without an agent does."""
        self._call(self._close())

    def trouble(self, kind: Trouble, seconds: float = 0.0) -> None:
        """Do it now."""
        self._loop.call_soon_threadsafe(self._do, kind, seconds)

    def after(self, direction: Direction, byte_count: int, kind: Trouble, seconds: float = 0.0) -> threading.Event:
        """Do it once exactly so many more bytes have gone one way; the event is set then."""
        done = threading.Event()

        def act() -> None:
            self._do(kind, seconds)
            done.set()

        self._arm(direction, byte_count, act)
        return done

    def hold_after(self, direction: Direction, byte_count: int) -> threading.Event:
        """Let nothing through once so many more bytes have gone one way, until `release`; the event is set then."""
        done = threading.Event()

        def act() -> None:
            self._free.clear()
            done.set()

        self._arm(direction, byte_count, act)
        return done

    def release(self) -> None:
        """Let bytes through again, and forget what was to happen after more of them."""
        self._loop.call_soon_threadsafe(self._release)

    def _arm(self, direction: Direction, byte_count: int, act: Callable[[], None]) -> None:
        async def arm() -> None:
            self._armed[direction] = (self.passed[direction] + byte_count, act)

        self._call(arm())

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_DOOR_S)

    def _release(self) -> None:
        self._armed.clear()
        self._trickle_until = 0.0
        self._free.set()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._release()
        for link in tuple(self._links):
            _reset(link.controller)
            _reset(link.agent)
        while self._links:  # noqa: ASYNC110 - it is over at once
            await asyncio.sleep(0.001)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            agent_reader, agent_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, agent_writer)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(link, Direction.TO_AGENT, reader, agent_writer),
                self._pump(link, Direction.TO_CONTROLLER, agent_reader, writer),
            )
        finally:
            self._links.discard(link)
            writer.transport.abort()
            agent_writer.transport.abort()

    async def _pump(
        self, link: _Link, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_BLOCK_BYTES):
                while data and not link.silent:
                    size = await self._turn(direction, len(data))
                    writer.write(data[:size])
                    await writer.drain()
                    data = data[size:]
                    self._count(direction, size)
            if not link.silent:
                writer.write_eof()

    async def _turn(self, direction: Direction, size: int) -> int:
        """How many bytes may go now, once any may."""
        await self._free.wait()
        if self._loop.time() < self._trickle_until:
            await asyncio.sleep(_BYTE_PAUSE_S)
            return 1
        if direction in self._armed:
            return max(1, min(size, self._armed[direction][0] - self.passed[direction]))
        return size

    def _count(self, direction: Direction, size: int) -> None:
        self.passed[direction] += size
        if direction in self._armed and self.passed[direction] >= self._armed[direction][0]:
            self._armed.pop(direction)[1]()

    def _do(self, kind: Trouble, seconds: float) -> None:
        if kind is Trouble.STALL:
            self._free.clear()
            self._loop.call_later(seconds, self._free.set)
        elif kind is Trouble.TRICKLE:
            self._trickle_until = self._loop.time() + seconds
        for link in tuple(self._links):
            if kind is Trouble.FINISH:
                link.controller.close()
                link.agent.close()
            if kind in (Trouble.RESET, Trouble.AGENT_NOT_TOLD):
                _reset(link.controller)
            if kind in (Trouble.RESET, Trouble.CONTROLLER_NOT_TOLD):
                _reset(link.agent)
            if kind in (Trouble.AGENT_NOT_TOLD, Trouble.CONTROLLER_NOT_TOLD):
                link.silent = True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: what is on its way is lost."""
    connection = writer.transport.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
