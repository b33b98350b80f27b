"""Talking with a process over its pipes: it may write without end, hang without reading, or be gone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

LAST_LINES = 20
_PIPES_S = 5.0
"""How long what a process wrote is waited for when it and all that it started have ended."""


class Tail:
    """The last lines that a process writes, and the beginnings of these, however much it writes."""

    def __init__(self, longest: int = 500) -> None:
        self._longest = longest
        self.lines: deque[str] = deque(maxlen=LAST_LINES)

    async def read(self, stream: asyncio.StreamReader | None) -> None:
        """Read to the end."""
        assert stream is not None  # noqa: S101 - it was asked for
        begun = b""  # a line may come in pieces, and may never end
        while data := await stream.read(65536):
            *lines, begun = (begun[-65536:] + data).split(b"\n")
            self._keep(lines)
        self._keep([begun])

    def _keep(self, lines: Sequence[bytes]) -> None:
        texts = (line.decode("utf-8", "replace").rstrip() for line in lines)
        self.lines.extend(text[: self._longest] for text in texts if text)


async def send_line(process: asyncio.subprocess.Process, line: str, close: bool = True) -> None:
    """Write a line, and close the pipe; nothing where the process has ended."""
    assert process.stdin is not None  # noqa: S101 - it was asked for
    try:
        process.stdin.write(line.encode() + b"\n")
        await process.stdin.drain()
        if close:
            process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended already; how it ended says the rest


async def last_words(reading: asyncio.Future[Any]) -> None:
    """Wait for what an ended process has written; not for ever, as somebody else may hold its pipes."""
    await asyncio.wait({reading}, timeout=_PIPES_S)
    if reading.done():
        reading.result()
    else:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
