"""Starts the process that finds or builds an engine, passes its progress on, and says how it ended."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbench.agent import processes
from backbench.agent.backends.base import Buildable, OpenRequest
from backbench.agent.backends.table import backend_named
from backbench.agent.endings import failure_of, not_started, oom_kill_count
from backbench.agent.engines import EngineCache, Entry, entry_of
from backbench.agent.pipes import Tail, last_words, send_line
from backbench.agent.supervisor import Watchdog, stay
from backbench.domain.event import LaunchReport, Phase
from backbench.domain.run import FailureReason, LaunchPurpose, RunFailure

Show = Callable[[int, int | None], None]
"""Gets how much of a build is done, and of how much (None: not known)."""


def builds_engines(backend: str) -> bool:
    """Whether a backend makes engines that are kept. Raises UnknownBackend."""
    return isinstance(backend_named(backend), Buildable)


class EngineBuild:
    """One engine, found or built; `entry` is there when `perform` gave no failure."""

    def __init__(self, cache: EngineCache, backend: str, request: OpenRequest, show: Show) -> None:
        self._cache = cache
        self._backend = backend
        self._request = request
        self._show = show
        self._stage = "start"
        self._failure: RunFailure | None = None
        self._stderr = Tail()
        self.entry: Entry | None = None
        self.cached = False

    async def perform(self, watchdog: Watchdog, folders: Path | None = None) -> RunFailure | None:
        """Stay with the process to its end. Raises Stopped; a process that is ended leaves no engine."""
        try:
            with self._cache.part() as part:
                return await self._built_in(part, watchdog, folders)
        except OSError as error:
            return not_started(error)

    def report(self) -> LaunchReport:
        """What is told of it; the counters of an engine that was found are those of its build."""
        assert self.entry is not None  # noqa: S101 - for whoever has seen it succeed
        built_ns = self.entry.counters.get("build_ns")
        phases = () if self.cached or built_ns is None else (Phase("build", built_ns),)
        facts = {**self.entry.facts, "cached": "yes" if self.cached else "no"}
        return LaunchReport(0, LaunchPurpose.BUILD, phases=phases, facts=facts, counters=self.entry.counters)

    async def _built_in(self, part: Path, watchdog: Watchdog, folders: Path | None) -> RunFailure | None:
        kills = oom_kill_count()
        child = await processes.start("backbench.agent.build", folders=folders)
        sending = send_line(child.process, json.dumps(self._told(part)))
        talk = asyncio.gather(sending, self._read_events(child.process), self._stderr.read(child.process.stderr))
        try:
            if (late := await stay(child, watchdog, "building the engine")) is not None:
                return late
        finally:
            await processes.end(child)
            await last_words(talk)
        return self._ending(child.process.returncode or 0, oom_kill_count() > kills)

    def _told(self, part: Path) -> dict[str, Any]:
        return {
            "parent_pid": os.getpid(),
            "backend": self._backend,
            "request": dataclasses.asdict(self._request),
            "engines": str(self._cache.folder),
            "part": str(part),
        }

    async def _read_events(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            async for line in process.stdout:
                self._happened(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            message = f"the build of the engine said something unintelligible ({type(error).__name__}); run it again"
            self._failure = RunFailure(FailureReason.WORKER_CRASHED, message)
            processes.kill_group(process)

    def _happened(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            self._stage = str(event["stage"])
            total = event["total"]
            self._show(int(event["done"]), None if total is None else int(total))
        elif event["event"] == "built":
            entry = entry_of(event["entry"])
            if entry.path.parent.parent != self._cache.folder:
                raise ValueError("an engine that is not in the cache")
            self.entry, self.cached = entry, bool(event["cached"])
        elif event["event"] == "failure":
            self._failure = RunFailure(FailureReason(event["reason"]), str(event["message"]))

    def _ending(self, status: int, oom_killed: bool) -> RunFailure | None:
        tail = tuple(self._stderr.lines)
        if self._failure is not None:
            return replace(self._failure, log_tail=tail)
        if status == 0 and self.entry is not None:
            return None
        stage = "build" if self._stage == "start" else f"build ({self._stage})"
        return failure_of(status, tail, stage, oom_killed=oom_killed)
