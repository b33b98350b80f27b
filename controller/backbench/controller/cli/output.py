"""Answers on standard output, everything else on standard error."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

_HARMFUL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Control characters: a device's texts reach the terminal, and an escape sequence in one would rule it."""


def harmless(text: str) -> str:
    """A text that only prints: whatever would control the terminal is replaced."""
    return text.translate(_HARMFUL)


class Harmless:
    """Anything that Rich can draw, with its texts made harmless; its colours stay."""

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


def print_json(document: Any) -> None:
    """Exactly one document."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_answer(*renderables: Any) -> None:
    """Rich on a terminal or where FORCE_COLOR asks for it, plain text otherwise."""
    from rich.console import Console

    terminal = sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))
    text = io.StringIO()
    console = Console(
        file=text,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        width=shutil.get_terminal_size((120, 40)).columns,
        highlight=False,
        markup=False,  # "[agent-gpu]" is the name of an extra
        emoji=False,
    )
    for renderable in renderables:
        console.print(Harmless(renderable))
    sys.stdout.write(text.getvalue())


def print_line(text: str) -> None:
    """A line of the answer, as it is."""
    sys.stdout.write(harmless(text) + "\n")


def print_note(text: str) -> None:
    """A line beside the answer."""
    sys.stderr.write(f"backbench: {harmless(text)}\n")
