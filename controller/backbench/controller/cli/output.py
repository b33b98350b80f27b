"""Answers on standard output, everything else on standard error."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from typing import Any


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
    )
    for renderable in renderables:
        console.print(renderable)
    sys.stdout.write(text.getvalue())


def print_line(text: str) -> None:
    """A line of the answer, as it is."""
    sys.stdout.write(text + "\n")


def print_note(text: str) -> None:
    """A line beside the answer."""
    sys.stderr.write(f"backbench: {text}\n")
