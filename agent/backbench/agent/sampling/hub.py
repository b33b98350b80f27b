"""Telemetry for everybody who wants it, from one sampler process that runs while anybody does.

While a run measures, it alone says how often is read and what: the others get what it has read, and never more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbench.agent import processes
from backbench.agent.endings import ending_words
from backbench.agent.pipes import Tail, last_words
from backbench.agent.sampling.lines import Plan, Survey, block_from_fields, survey_from_line, to_line
from backbench.agent.sampling.thinning import Thinning
from backbench.agent.sensors.table import EXTRA_SOURCES
from backbench.domain.errors import AgentStopping, InvalidArgument
from backbench.domain.telemetry import TelemetryBlock

log = logging.getLogger(__name__)

DEFAULT_WATCH_HZ = 2.0
LOWEST_WATCH_HZ = 0.1
HIGHEST_WATCH_HZ = 10.0
_MODULE = "backbench.agent.sampling"
_IDLE_S = 3.0
"""How long a sampler that nobody wants any more is kept, so that the next launch need not wait for it."""
_BEGIN_S = 15.0
_FLUSH_S = 2.0
_SURVEY_S = 30.0
_FRESH_S = 10.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_HEALTHY_S = 30.0
_WAITING_BLOCKS = 64
"""Blocks that a slow watcher may be behind; older ones are lost to it."""

Blocks = Callable[[TelemetryBlock], object]
Complain = Callable[[str], object]


@dataclass(eq=False)
class _Run:
    """A run that measures, from the answer to order `since` on."""

    plan: Plan
    blocks: Blocks
    complain: Complain
    since: int


@dataclass(eq=False)
class _Watcher:
    plan: Plan
    waiting: deque[TelemetryBlock] = field(default_factory=lambda: deque(maxlen=_WAITING_BLOCKS))
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Telemetry:
    """The sampler and all who want its samples. `simulation` is what open_tree takes; "" is this machine."""

    def __init__(self, simulation: str = "", folders: Path | None = None) -> None:
        self._simulation = simulation
        self._folders = folders
        self._epoch_ns = time.perf_counter_ns()
        self._run: _Run | None = None
        self._watchers: list[_Watcher] = []
        self._pids: set[int] = set()
        self._processor: int | None = None
        self._numbers = itertools.count(1)
        self._plan = Plan()
        self._answered = 0
        self._ended_count = 0
        self._news = asyncio.Event()
        self._child: processes.Child | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._extras: asyncio.Task[Survey] | None = None
        self._usual: asyncio.Task[Survey] | None = None
        self._looked_s = self._looked_for_extras_s = 0.0
        self._closed = False

    def begin(self, pid: int) -> None:
        """A worker has started."""
        self._pids.add(pid)
        self._tell({"begin": pid})

    def end(self, pid: int) -> None:
        """A worker has ended."""
        self._pids.discard(pid)
        self._tell({"end": pid})

    def pin(self, processor: int | None) -> None:
        """Keep the sampler to this processor; None for all that the agent may use."""
        if processor != self._processor:
            self._processor = processor
            self._tell({"pin": processor})

    def restart_clock(self) -> None:
        """A recorded board that changes with time begins anew."""
        self._epoch_ns = time.perf_counter_ns()
        if self._simulation:
            self._tell({"epoch": self._epoch_ns})

    @contextlib.asynccontextmanager
    async def sampled(self, plan: Plan, blocks: Blocks, complain: Complain) -> AsyncIterator[None]:
        """A run measures inside the block: it is sampled from before its beginning to behind its end.

        What was read goes to `blocks`, what is wrong with the sampler to `complain`. Never raises for telemetry's sake:
        what is missing is missing.
        """
        run = self._run = _Run(plan, blocks, complain, next(self._numbers))
        try:
            await self._looked()
            self._arrange(run.since)
            if plan.rate_hz and not await self._answer(run.since, _BEGIN_S):
                complain("the sampler of telemetry has not begun in time; what it does not read is missing")
            try:
                yield
            finally:
                if plan.rate_hz:
                    last = next(self._numbers)
                    self._tell({"flush": last})
                    await self._answer(last, _FLUSH_S)
        finally:
            self._run = None
            self._arrange()

    async def watch(self, plan: Plan) -> AsyncGenerator[TelemetryBlock, None]:
        """Live samples, at most as often as asked for, until closed.

        Raises InvalidArgument for what cannot be had, AgentStopping when the agent ends.
        """
        await self.check_extra(plan.extra)
        watcher = _Watcher(plan)
        thin = Thinning(plan.rate_hz)
        self._watchers.append(watcher)
        self._arrange()
        try:
            while not self._closed:
                await watcher.news.wait()
                watcher.news.clear()
                while watcher.waiting:
                    if (block := thin(watcher.waiting.popleft())) is not None:
                        yield block
            raise AgentStopping("the agent is shutting down; watch again when it is back")
        finally:
            self._watchers.remove(watcher)
            self._arrange()

    async def check_extra(self, names: Sequence[str]) -> None:
        """Raises InvalidArgument for a source that is not known or cannot be read here."""
        for name in names:
            if name not in EXTRA_SOURCES:
                raise InvalidArgument(f'no sensor "{name[:64]}" to ask for; there are {", ".join(EXTRA_SOURCES)}')
        if not names:
            return
        survey = await self.survey()
        if survey.lacking(names) and self._run is None and time.monotonic() - self._looked_for_extras_s > _FRESH_S:
            self._extras = None  # it may have been brought meanwhile
            survey = await self.survey()
        for each in survey.lacking(names):
            raise InvalidArgument(f'sensor "{each.name}" cannot be read here: {each.reason}')

    async def survey(self) -> Survey:
        """What there is to read here, looked at some seconds ago at most; while a run measures, what was known before.

        What is read only where it is asked for is looked for once.
        """
        extras = await self._first_look()
        if self._run is None and time.monotonic() - self._looked_s > _FRESH_S:
            self._looked_s = time.monotonic()
            self._usual = asyncio.ensure_future(self._look())
        if self._usual is None:
            return extras
        usual = await asyncio.shield(self._usual)
        return _with_extras(usual, extras) if usual.sources else extras

    async def close(self) -> None:
        """End the sampler, and whoever watches."""
        self._closed = True
        for watcher in self._watchers:
            watcher.news.set()
        every = (self._keeping, self._ending, self._extras, self._usual)
        tasks = [task for task in every if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._idle is not None:
            self._idle.cancel()

    def start(self) -> None:
        """Take a first look around."""
        self._begin_look()

    async def _first_look(self) -> Survey:
        return await asyncio.shield(self._begin_look())

    def _begin_look(self) -> asyncio.Task[Survey]:
        if self._extras is None:
            self._looked_s = self._looked_for_extras_s = time.monotonic()
            self._usual = None
            self._extras = asyncio.ensure_future(self._look(*EXTRA_SOURCES))
        return self._extras

    async def _looked(self) -> None:
        """Wait for a look that goes on: it is not to go on beside a measurement."""
        await self._first_look()
        if self._usual is not None:
            await asyncio.shield(self._usual)

    async def _look(self, *extra: str) -> Survey:
        """A survey, taken by a process of its own; an empty one where that fails."""
        arguments = ["--survey", *self._arguments(), *(word for name in extra for word in ("--extra", name))]
        try:
            child = await processes.start(_MODULE, *arguments, folders=self._folders)
        except OSError as error:
            log.warning("the sources of telemetry cannot be looked at: %s", error)
            return Survey()
        try:
            output, errors = await asyncio.wait_for(child.process.communicate(), _SURVEY_S)
            return survey_from_line(output)
        except asyncio.TimeoutError:
            log.warning("looking at the sources of telemetry took over %.0f s", _SURVEY_S)
        except (ValueError, KeyError, TypeError):
            log.warning("looking at the sources of telemetry failed: %s", errors.decode("utf-8", "replace")[-500:])
        finally:
            await processes.end(child)
        return Survey()

    def _arguments(self) -> list[str]:
        simulate = ["--simulate", self._simulation] if self._simulation else []
        return [*simulate, "--epoch", str(self._epoch_ns)]

    def _arrange(self, number: int | None = None) -> None:
        """Let the sampler do what is wanted now, and be there while anything is."""
        if self._run is not None:
            plan = self._run.plan
        elif self._watchers:
            extra = dict.fromkeys(name for watcher in self._watchers for name in watcher.plan.extra)
            plan = Plan(max(watcher.plan.rate_hz for watcher in self._watchers), tuple(extra))
        else:
            plan = replace(self._plan, rate_hz=0.0)  # what is open stays open for the next launch
        if plan != self._plan or number is not None:
            self._plan = plan
            self._tell_plan(number)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if plan.rate_hz and not self._closed:
            if self._keeping is None or self._keeping.done():
                self._keeping = asyncio.ensure_future(self._keep())
        elif self._run is None and self._keeping is not None:
            self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._let_go)

    def _let_go(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            self._ending, self._keeping = self._keeping, None

    def _tell_plan(self, number: int | None) -> None:
        number = next(self._numbers) if number is None else number
        plan = {"rate_hz": self._plan.rate_hz, "extra": self._plan.extra, "number": number}
        self._tell({"plan": plan})

    def _tell(self, order: dict[str, Any]) -> None:
        if self._child is not None and (pipe := self._child.process.stdin) is not None and not pipe.is_closing():
            pipe.write(to_line(order))

    async def _answer(self, number: int, limit_s: float) -> bool:
        """Wait until the sampler has answered; False where it does not in time, or ends meanwhile."""
        until_s, ended_before = time.monotonic() + limit_s, self._ended_count
        while self._answered < number:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or self._ended_count > ended_before:
                return False
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), left_s)
        return True

    async def _keep(self) -> None:
        """Have a sampler until cancelled; one that ends is followed by another one."""
        pause_s = _FIRST_PAUSE_S
        while True:
            started_s = time.monotonic()
            try:
                how = await self._have_one()
            except OSError as error:
                how = f"cannot be started: {error}"
            self._ended_count += 1
            self._wake()
            if time.monotonic() - started_s > _HEALTHY_S:
                pause_s = _FIRST_PAUSE_S
            self._complain(
                f"the sampler of telemetry {how}; it is started again in {pause_s:g} s, and what it would have read is"
                " missing"
            )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _have_one(self) -> str:
        """Start a sampler and stay with it to its end; returns how it ended. Raises OSError where it cannot start."""
        child = self._child = await processes.start(_MODULE, *self._arguments(), folders=self._folders)
        words = Tail()
        reading = asyncio.ensure_future(words.read(child.process.stderr))
        try:
            self._brief()
            await self._listen(child.process)
        finally:
            if self._child is child:
                self._child, self._answered = None, 0
            await _end(child)
            await last_words(reading)
        return ending_words(child.process.returncode, words.lines[-1] if words.lines else "")

    def _brief(self) -> None:
        """Tell a fresh sampler all that the one before it knew."""
        self._tell({"epoch": self._epoch_ns})
        self._tell({"pin": self._processor})
        for pid in self._pids:
            self._tell({"begin": pid})
        self._tell_plan(None)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Take what it says until it ends."""
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            async for line in process.stdout:
                self._hear(line)
        except (ValueError, TypeError, AttributeError, KeyError):  # it is not itself any more
            self._complain("the sampler of telemetry said something unintelligible")
            processes.kill_group(process)

    def _hear(self, line: bytes) -> None:
        ((kind, value),) = json.loads(line).items()
        if kind == "block":
            self._hand_out(block_from_fields(value))
        elif kind == "log":
            self._complain(value)
        elif kind == "answered":
            self._answered = value
            self._wake()

    def _wake(self) -> None:
        told, self._news = self._news, asyncio.Event()
        told.set()

    def _hand_out(self, block: TelemetryBlock) -> None:
        run = self._run
        if run is not None and self._answered >= run.since:
            run.blocks(block)
        for watcher in self._watchers:
            watcher.waiting.append(block)
            watcher.news.set()

    def _complain(self, text: str) -> None:
        log.warning("%s", text)
        if self._run is not None:
            self._run.complain(text)


def _with_extras(usual: Survey, first: Survey) -> Survey:
    """A survey of what is always read, with what an earlier one said of the other sources."""
    extras = (source for source in first.sources if source.name in EXTRA_SOURCES)
    return Survey((*usual.sources, *extras), usual.channels, first.extra_channels)


async def _end(child: processes.Child) -> None:
    """Let a sampler close its sources, then end it and what it has left behind."""
    if child.process.stdin is not None:
        child.process.stdin.close()
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(child.process.wait(), processes.GRACE_S)
    await processes.end(child)
