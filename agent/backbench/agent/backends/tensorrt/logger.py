"""What TensorRT says: it raises nothing, gives None or False, and writes why into its log."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from backbench.agent.backends.base import WorkerFailure
from backbench.domain.run import FailureReason

_KEPT = 20
_SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")
_ERRORS = ("INTERNAL_ERROR", "ERROR")
_LONGEST = 300
_NO_MEMORY = re.compile(r"out ?of ?memory|memoryallocation|insufficient memory", re.IGNORECASE)


class LogLines:
    """The last lines of each severity since `clear`."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[str]] = {name: deque(maxlen=_KEPT) for name in _SEVERITIES}
        self._errors: list[str] = []
        """The first ones, of both severities: what comes after is mostly what they led to."""

    def take(self, severity: str, text: str) -> None:
        """Keep a line; what is only for TensorRT's own developers is not kept."""
        if severity not in self._lines:
            return
        line = " ".join(text.split())
        self._lines[severity].append(line)
        if severity in _ERRORS and len(self._errors) < _KEPT:
            self._errors.append(line)

    def clear(self) -> None:
        """Forget what was said so far."""
        self._errors.clear()
        for lines in self._lines.values():
            lines.clear()

    def lines(self, severity: str) -> list[str]:
        """The last lines of a severity, oldest first."""
        return list(self._lines[severity])

    def words(self) -> str:
        """Why something failed, in TensorRT's words and one line."""
        said = list(dict.fromkeys(self._errors)) or self.lines("WARNING")[-1:]
        return _shortened("; ".join(said)) if said else "TensorRT says nothing of why"

    def lacks_memory(self) -> bool:
        """Whether an error says that there is not enough memory."""
        return any(_NO_MEMORY.search(line) for line in self._errors)

    def failure(self, what: str, reason: FailureReason, remedy: str) -> WorkerFailure:
        """The failure of a call that gave None or False; a lack of memory goes before any other reason."""
        if self.lacks_memory():
            return WorkerFailure(
                FailureReason.OUT_OF_MEMORY, f"{what}: {self.words()}; use a smaller model, size or batch"
            )
        return WorkerFailure(reason, f"{what}: {self.words()}; {remedy}")


def make_logger(module: Any, lines: LogLines) -> Any:
    """An ILogger of that module that writes into `lines`. Keep it alive as long as what was made with it."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            lines.take(severity.name, msg)

    return Logger()


def _shortened(text: str) -> str:
    return text.rstrip(". ") if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()}…"
