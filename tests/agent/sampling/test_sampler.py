"""When each source is read, what its samples look like, and that reading less follows from reading too dearly."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from backbench.agent.sampling.sampler import CPU_CHANNEL, Sampler, cpu_time_ns
from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.domain.device import SensorChannel
from backbench.domain.telemetry import TelemetryBlock

MS = 10**6
SECOND = 10**9


class Time:
    """A clock that goes on only when told, and the processor time that went by."""

    def __init__(self) -> None:
        self.now_ns = 1000 * SECOND
        self.cpu_ns = 0

    def sampler(self) -> Sampler:
        return Sampler(lambda: self.now_ns, lambda: self.cpu_ns)

    def run(self, sampler: Sampler, length_ns: int) -> None:
        """Read whatever becomes due, when it becomes due."""
        end_ns = self.now_ns + length_ns
        while (due_ns := sampler.next_due_ns) is not None and due_ns <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            sampler.read_due()
        self.now_ns = end_ns


class Counting:
    """A source whose read takes a while and costs processor time."""

    def __init__(self, time: Time, name: str = "counting", rate_hz: float = 10.0, *, cost_ns: int = 0) -> None:
        self.time, self.name, self.rate_hz, self.cost_ns = time, name, rate_hz, cost_ns
        self.reads = 0
        self.closed = False

    def probe(self) -> Coverage:
        return Coverage((SensorChannel(f"{self.name}.reads", "count", "test"), SensorChannel("gone", "mC", "test")))

    def read(self) -> Mapping[str, Value]:
        self.reads += 1
        self.time.now_ns += self.cost_ns
        self.time.cpu_ns += self.cost_ns
        return {f"{self.name}.reads": self.reads, "gone": Unread("EAGAIN")}

    def close(self) -> None:
        self.closed = True


def blocks_of(sampler: Sampler) -> dict[str, TelemetryBlock]:
    return {block.columns[-1].channel: block for block in sampler.take()}


def test_each_source_is_read_at_its_own_rate_or_the_lower_ceiling() -> None:
    time = Time()
    sampler = time.sampler()
    fast, slow = Counting(time, "fast", 10.0), Counting(time, "slow", 1.0)
    sampler.add(fast)
    sampler.add(slow)
    sampler.run_at(5.0)
    sampler.read_all()
    time.run(sampler, 10 * SECOND - 1)
    assert (fast.reads, slow.reads) == (50, 10)


def test_samples_are_stamped_in_the_middle_of_the_read_and_do_not_drift() -> None:
    time = Time()
    sampler, begun_ns = time.sampler(), time.now_ns
    sampler.add(Counting(time, cost_ns=4 * MS))
    sampler.run_at(10.0)
    sampler.read_all()
    time.run(sampler, SECOND - 10 * MS)
    block = blocks_of(sampler)["agent.read.counting"]
    assert block.time_ns == tuple(begun_ns + number * 100 * MS + 2 * MS for number in range(10))
    columns = {column.channel: column.values for column in block.columns}
    assert columns["counting.reads"] == tuple(range(1, 11))
    assert columns["gone"] == (None,) * 10
    assert columns["agent.read.counting"] == (4 * MS,) * 10


def test_a_time_that_was_missed_is_not_caught_up_with() -> None:
    time = Time()
    sampler, source = time.sampler(), Counting(time)
    sampler.add(source)
    sampler.run_at(10.0)
    sampler.read_all()
    time.now_ns += 350 * MS  # the process did not get a processor
    sampler.read_due()
    assert source.reads == 2
    assert sampler.next_due_ns == time.now_ns + 50 * MS


def test_nothing_is_read_at_a_rate_of_nothing() -> None:
    time = Time()
    sampler, source = time.sampler(), Counting(time)
    sampler.add(source)
    sampler.read_all()
    assert sampler.next_due_ns is None
    assert sampler.take() == []
    assert source.reads == 0


def test_a_source_that_finds_nothing_is_closed_and_one_that_is_given_up_too() -> None:
    class Absent(Counting):
        def probe(self) -> Coverage:
            return Coverage.absent("no such hardware")

    time = Time()
    sampler, absent, given_up = time.sampler(), Absent(time, "absent"), Counting(time, "given_up")
    sampler.add(absent)
    sampler.add(given_up)
    assert absent.closed
    sampler.remove("given_up")
    sampler.remove("never there")
    assert given_up.closed


def test_what_reading_takes_of_a_core_is_a_channel() -> None:
    time = Time()
    sampler = time.sampler()
    sampler.add(Counting(time, cost_ns=MS // 2))
    sampler.run_at(10.0)
    sampler.read_all()
    time.run(sampler, SECOND)
    (share,) = blocks_of(sampler)[CPU_CHANNEL].columns[0].values
    assert share == 5


def test_above_one_per_cent_of_a_core_the_rates_are_halved_down_to_one_read_in_two_seconds() -> None:
    time = Time()
    sampler, source = time.sampler(), Counting(time, cost_ns=50 * MS)
    sampler.add(source)
    sampler.run_at(10.0)
    sampler.read_all()
    for _ in range(60):
        time.run(sampler, SECOND)
        sampler.take()
    assert [words.split(" it is read at most ")[1].split()[0] for words in sampler.complaints] == [
        "5", "2.5", "1.25", "0.625", "0.5",
    ]  # fmt: skip
    assert "50.5 % of a processor core" in sampler.complaints[0]
    before = source.reads
    time.run(sampler, 10 * SECOND)
    assert source.reads - before == 5


def test_below_it_nothing_changes_and_another_ceiling_forgets_what_was() -> None:
    time = Time()
    sampler, source = time.sampler(), Counting(time, cost_ns=MS // 2)
    sampler.add(source)
    sampler.run_at(10.0)
    sampler.read_all()
    for _ in range(20):
        time.run(sampler, SECOND)
        sampler.take()
    assert sampler.complaints == []
    source.cost_ns = 20 * MS
    for _ in range(10):
        time.run(sampler, SECOND)
        sampler.take()
    assert len(sampler.complaints) > 0
    sampler.run_at(0)
    sampler.run_at(10.0)
    sampler.read_all()
    before = source.reads
    time.run(sampler, SECOND - 100 * MS)
    assert source.reads - before == 9


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the kernel shows no tasks")
def test_a_command_that_goes_on_counts_as_the_samplers_own_time() -> None:
    code = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"
    before_ns = cpu_time_ns() - time.process_time_ns()
    helper = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert helper.stdout is not None
    helper.stdout.readline()
    grown_ns = cpu_time_ns() - time.process_time_ns() - before_ns
    helper.communicate()
    assert grown_ns > 0.2 * SECOND


def test_a_mistake_in_one_source_is_said_once_and_costs_its_values_alone() -> None:
    time_ = Time()
    sampler = time_.sampler()

    class Broken(Counting):
        def read(self) -> Mapping[str, Value]:
            raise KeyError("temp")

    sampler.add(Broken(time_, "broken"))
    sampler.add(Counting(time_, "sound"))
    sampler.run_at(10.0)
    time_.run(sampler, SECOND)
    blocks = {block.columns[-1].channel: block for block in sampler.take()}
    assert set(blocks["agent.read.broken"].columns[0].values) == {None}
    assert None not in blocks["agent.read.sound"].columns[0].values
    assert sampler.complaints == ["sensor broken cannot be read, a bug in Backbench: KeyError: 'temp'"]
