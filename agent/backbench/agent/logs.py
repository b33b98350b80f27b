"""The agent's log: lines for people, lines that journald files by their priority, or one JSON object a line."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

FORMATS = ("text", "json")
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_KNOWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Log to standard error from `level` on, in one of FORMATS; under systemd text is for its journal."""
    handler = logging.StreamHandler(stream or sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    elif goes_to_journal(handler.stream, os.environ):
        handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def goes_to_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether what is written there arrives in systemd's journal: JOURNAL_STREAM names the very stream."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalFormatter(logging.Formatter):
    """Every line begins with its priority, as sd-daemon(3) has it; the time is the journal's own."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, each with the priority before it."""
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines() or [""])


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, the exception where there is one, and what `extra` gives."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        fields = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update({name: value for name, value in vars(record).items() if name not in _KNOWN})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class LastError(logging.Handler):
    """Keeps the newest error of the agent's log, for its status. A context manager."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.message = ""
        self.unix_ns: int | None = None

    def __enter__(self) -> LastError:
        logging.getLogger("backbench").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("backbench").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it in place of the one before."""
        self.message, self.unix_ns = record.getMessage(), int(record.created * 1e9)
