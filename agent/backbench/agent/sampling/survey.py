"""One look at every source: what it finds, what a read costs, and what keeps the others from being read."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backbench.agent.sampling.lines import Survey
from backbench.agent.sampling.sampler import COST_PREFIX, CPU_CHANNEL
from backbench.agent.sensors.base import Coverage, Source, Unread, Value
from backbench.agent.sensors.table import EXTRA_SOURCES, SOURCES
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.worker import WorkerProcesses
from backbench.domain.device import SensorChannel, SensorSource

AGENT = "agent"
"""The source of what the sampler says of itself."""
_BETWEEN_READS_S = 0.25
_MEANINGS = {
    "EAGAIN": "its hardware sleeps",
    "EACCES": "this user may not read it; run the agent as root",
    "EPERM": "this user may not read it; run the agent as root",
    "ENOENT": "it went away",
    "ENODEV": "its hardware does not answer",
    "ENODATA": "its hardware is off",
    "EILSEQ": "it says something that is no number",
    "ERANGE": "it says something that cannot be",
    "ETIMEDOUT": "it does not answer in time",
}


@dataclass(frozen=True, slots=True)
class Look:
    """A survey, the channels of each source in it by the source's name, and the values that were read by channel."""

    survey: Survey
    channels: Mapping[str, Sequence[SensorChannel]] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)


def look(tree: Tree, extra: Sequence[str] = (), read: Sequence[str] = ()) -> Look:
    """Read every source twice, so that shares and counters' differences have values.

    Of the sources that are read only where they are asked for, those in `extra` are looked for and those in `read`
    read too; nothing is said of the others.
    """
    found = [_Found(make(tree), asked=True) for make in SOURCES.values()]
    found += [_Found(make(tree), asked=name in read) for name, make in EXTRA_SOURCES.items() if name in extra]
    try:
        for each in found:
            each.probe()
        for each in found:
            each.read()
        time.sleep(_BETWEEN_READS_S)
        for each in found:
            each.read()
    finally:
        for each in found:
            each.source.close()
    values: dict[str, Value] = {}
    for each in found:
        values.update(each.values)
    channels = {each.source.name: each.channels for each in found}
    return Look(_survey(found, WorkerProcesses(tree)), channels, values)


class _Found:
    """A source, what it found, and its last read."""

    def __init__(self, source: Source, asked: bool) -> None:
        self.source = source
        self.asked = asked
        self.coverage = Coverage()
        self.values: Mapping[str, Value] = {}
        self._read_ns: int | None = None

    def probe(self) -> None:
        self.coverage = self.source.probe()

    def read(self) -> None:
        if self.asked and self.coverage.channels:
            before = time.perf_counter_ns()
            self.values = self.source.read()
            self._read_ns = time.perf_counter_ns() - before

    @property
    def described(self) -> SensorSource:
        state, reason = self.coverage.state, self.coverage.reason
        if self.coverage.channels and not self.asked:
            state, reason = "off", f"read where it is asked for: --sensor {self.source.name}"
        return SensorSource(self.source.name, state, reason, round(1e9 / self.source.rate_hz), self._read_ns)

    @property
    def channels(self) -> list[SensorChannel]:
        if not self.asked:
            reason = f"off; asked for by --sensor {self.source.name}"
            return [replace(channel, available=False, reason=reason) for channel in self.coverage.channels]
        return [self._looked_at(channel) for channel in self.coverage.channels]

    def _looked_at(self, channel: SensorChannel) -> SensorChannel:
        value = self.values.get(channel.name)
        if value is None or isinstance(value, Unread):
            reason = channel.reason or _reason(value)
            return replace(channel, available=False, reason=reason, read_ns=self._read_ns)
        return replace(channel, read_ns=self._read_ns)


def _survey(found: Sequence[_Found], workers: WorkerProcesses) -> Survey:
    sources = [each.described for each in found]
    channels = [channel for each in found if each.asked for channel in each.channels]
    extra = tuple(channel for each in found if not each.asked for channel in each.channels)
    sources.append(SensorSource(workers.name, "read", "while a run measures", round(1e9 / workers.rate_hz)))
    channels += workers.probe().channels
    sources.append(SensorSource(AGENT, "read", "", 10**9))
    names = [each.source.name for each in found if each.asked and each.coverage.channels] + [workers.name]
    channels += [SensorChannel(COST_PREFIX + name, "ns", AGENT, scope=f"one read of {name}") for name in names]
    channels.append(SensorChannel(CPU_CHANNEL, "permille", AGENT, scope="sampler process, of one core"))
    return Survey(tuple(sources), tuple(channels), extra)


def _reason(value: Unread | None) -> str:
    if value is None:
        return "not readable just now"
    return f"{_MEANINGS.get(value.code, 'not readable just now')} ({value.code})"
