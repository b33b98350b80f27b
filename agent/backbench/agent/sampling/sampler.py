"""Reads every source at its own rate and keeps the samples until they are taken."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from backbench.agent.sensors.base import Source, Unread, Value
from backbench.domain.device import SensorChannel
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn

CPU_CHANNEL = "agent.cpu"
COST_PREFIX = "agent.read."
MAX_CPU_PERMILLE = 10
"""What the sampler may take of one core before it reads less often."""
LOWEST_RATE_HZ = 0.5
_WINDOW_NS = 5 * 10**9
_SHORTEST_NS = 5 * 10**8
_SECOND_NS = 10**9
_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")

Clock = Callable[[], int]


def cpu_time_ns() -> int:
    """Processor time of this process, of the commands that it ran, and of those that go on."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended_ns = round((children.ru_utime + children.ru_stime) * _SECOND_NS)
    return time.process_time_ns() + ended_ns + sum(map(_cpu_time_ns, _running()))


def _running() -> list[str]:
    """The ids of this process's children; none where the kernel does not list them."""
    try:
        own = str(os.getpid())
        return (_PROC / own / "task" / own / "children").read_text(encoding="ascii").split()
    except OSError:
        return []


def _cpu_time_ns(pid: str) -> int:
    try:
        fields = (_PROC / pid / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _SECOND_NS // _TICKS
    except (OSError, ValueError, IndexError):  # it has just ended
        return 0


class _Reading:
    """A source with something to read, when it is due, and its samples so far."""

    def __init__(self, source: Source, channels: Sequence[SensorChannel]) -> None:
        self.source = source
        self.due_ns = 0
        self._units = {channel.name: channel.unit for channel in channels}
        self._times: list[int] = []
        self._costs: list[int] = []
        self._samples: list[Mapping[str, Value]] = []
        self.mistake = ""

    def read(self, clock: Clock) -> None:
        before = clock()
        try:
            values = self.source.read()
        except Exception as error:  # noqa: BLE001 - a mistake in one source is not to cost the others
            values, self.mistake = {}, self.mistake or f"{type(error).__name__}: {error}"
        after = clock()
        self._times.append((before + after) // 2)
        self._costs.append(after - before)
        self._samples.append(values)

    def take(self) -> TelemetryBlock | None:
        if not self._times:
            return None
        columns = [
            TelemetryColumn(name, unit, tuple(known(sample.get(name)) for sample in self._samples))
            for name, unit in self._units.items()
        ]
        columns.append(TelemetryColumn(COST_PREFIX + self.source.name, "ns", tuple(self._costs)))
        block = TelemetryBlock(tuple(self._times), tuple(columns))
        self._times, self._costs, self._samples = [], [], []
        return block


class Sampler:
    """Sources, read at the lower of their own rate and a ceiling; it says in `complaints` when it reads less often."""

    def __init__(self, clock: Clock = time.perf_counter_ns, cpu_clock: Clock = cpu_time_ns) -> None:
        self._clock = clock
        self._readings: dict[str, _Reading] = {}
        self._ceiling_hz = 0.0
        self._divisor = 1
        self._load = _Load(clock, cpu_clock)
        self.complaints: list[str] = []

    def add(self, source: Source) -> None:
        """Take up a source, unless it finds nothing here."""
        if channels := source.probe().channels:
            self._readings[source.name] = _Reading(source, channels)
        else:
            source.close()

    def remove(self, name: str) -> None:
        """Give up a source, where it was taken up."""
        if (reading := self._readings.pop(name, None)) is not None:
            reading.source.close()

    def close(self) -> None:
        """Give up all of them."""
        for name in tuple(self._readings):
            self.remove(name)

    def run_at(self, ceiling_hz: float) -> None:
        """From now on read at this rate at most; 0 stops reading. What reading costs is counted anew."""
        if ceiling_hz != self._ceiling_hz:
            self._ceiling_hz = ceiling_hz
            self._divisor = 1
        self._load.restart()

    @property
    def next_due_ns(self) -> int | None:
        """When there is something to read again; None for never."""
        if not self._ceiling_hz or not self._readings:
            return None
        return min(reading.due_ns for reading in self._readings.values())

    def read_due(self) -> None:
        """Read what is due. A time that was missed is not caught up with: the next one keeps its place."""
        if not self._ceiling_hz:
            return
        for reading in self._readings.values():
            now = self._clock()
            if reading.due_ns <= now:
                sound = not reading.mistake
                reading.read(self._clock)
                if sound and reading.mistake:
                    name = reading.source.name
                    self.complaints.append(f"sensor {name} cannot be read, a bug in Backbench: {reading.mistake}")
                period_ns = self._period_ns(reading.source)
                reading.due_ns += (1 + (now - reading.due_ns) // period_ns) * period_ns

    def read_all(self) -> None:
        """Read everything now, and from here on at the rates."""
        for reading in self._readings.values():
            reading.due_ns = self._clock()
        self.read_due()

    def take(self) -> list[TelemetryBlock]:
        """The samples since the last call, a block a source, and what taking them has cost."""
        blocks = [block for reading in self._readings.values() if (block := reading.take()) is not None]
        if self._ceiling_hz:
            if (share := self._load.share()) is not None:
                blocks.append(TelemetryBlock((self._clock(),), (TelemetryColumn(CPU_CHANNEL, "permille", (share,)),)))
            self._back_off()
        return blocks

    def _back_off(self) -> None:
        permille = self._load.over_window()
        if permille is None or permille <= MAX_CPU_PERMILLE:
            return
        fastest = max((self._rate_hz(reading.source) for reading in self._readings.values()), default=0.0)
        if fastest <= LOWEST_RATE_HZ:
            return
        self._divisor *= 2
        fastest = max(self._rate_hz(reading.source) for reading in self._readings.values())
        self.complaints.append(
            f"reading telemetry took {permille / 10:.1f} % of a processor core, more than {MAX_CPU_PERMILLE / 10:g} %;"
            f" it is read at most {fastest:g} times a second from now on"
        )

    def _rate_hz(self, source: Source) -> float:
        rate_hz = min(source.rate_hz, self._ceiling_hz)
        return max(rate_hz / self._divisor, min(rate_hz, LOWEST_RATE_HZ))

    def _period_ns(self, source: Source) -> int:
        return round(_SECOND_NS / self._rate_hz(source))


class _Load:
    """Shares of one core in thousandths, since the last look and over a window."""

    def __init__(self, clock: Clock, cpu_clock: Clock) -> None:
        self._clock, self._cpu_clock = clock, cpu_clock
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._last = self._window = (self._clock(), self._cpu_clock())

    def share(self) -> int | None:
        """Since it was last told; None for so short a time that it would say little."""
        now = self._clock()
        if now - self._last[0] < _SHORTEST_NS:
            return None
        before, self._last = self._last, (now, self._cpu_clock())
        return _permille(before, self._last)

    def over_window(self) -> int | None:
        """Over the window that has just ended; None while it goes on."""
        now = self._clock()
        if now - self._window[0] < _WINDOW_NS:
            return None
        before, self._window = self._window, (now, self._cpu_clock())
        return _permille(before, self._window)


def _permille(before: tuple[int, int], after: tuple[int, int]) -> int:
    return round((after[1] - before[1]) * 1000 / (after[0] - before[0]))


def known(value: Value | None) -> int | None:
    """A value as it is sent: what could not be read is None."""
    return None if value is None or isinstance(value, Unread) else value
