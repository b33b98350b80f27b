"""What a worker tells the agent while it works: one JSON document a line, and the phases that its life has."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from backbench.agent.worker import memory


class Reporter:
    """Writes events, and keeps the length of every phase; where `reads_memory`, also the memory of every phase.

    Memory is read between the phases and belongs to none: it takes up to 50 ms.
    """

    def __init__(self, stream: TextIO, reads_memory: bool) -> None:
        self._stream = stream
        self._reads_memory = reads_memory
        self._peaks_reset = True
        self.current = "interpreter"
        """What is going on."""
        self.phases: list[tuple[str, int]] = []
        self.memory: list[dict[str, Any]] = []
        self.facts: dict[str, str] = {}
        self.further_figures: Callable[[], Mapping[str, int]] | None = None
        """Tells of memory that the process's own figures do not show, while somebody knows of it."""

    def send(self, event: str, **fields: Any) -> None:
        """One event."""
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()

    def begin(self, stage: str) -> None:
        """Tell the agent what is going on from now on."""
        self.current = stage
        self.send("stage", stage=stage)

    @contextlib.contextmanager
    def phase(self, name: str, since_ns: int | None = None) -> Iterator[None]:
        """A phase: an event at its start, its length, from `since_ns` where it began earlier, and its memory."""
        self.begin(name)
        start = time.perf_counter_ns() if since_ns is None else since_ns
        yield
        self.phases.append((name, time.perf_counter_ns() - start))
        if self._reads_memory:
            self._read_memory(name)

    def _read_memory(self, name: str) -> None:
        figures = memory.read_memory()
        peak, resident = figures.pop("VmHWM", None), figures.pop("VmRSS", None)
        figures.update(memory.read_shares())
        if self.further_figures is not None:
            figures.update(self.further_figures())
        self.memory.append({"name": name, "peak_bytes": peak, "resident_bytes": resident, "figures": figures})
        self._peaks_reset = memory.reset_peak() and self._peaks_reset
        self.facts["memory_peak"] = "of each phase" if self._peaks_reset else "since the process began"
