"""The coarse sleep ends before the moment, the fine one at it."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from backbench.agent.worker.pacing import SPIN_NS, lower_timer_slack, sleep_until


class Ticking:
    """A clock that moves 1 us at each look; naps are noted."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.naps: list[int] = []

    def __call__(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    def nap_until(self, moment_ns: int) -> None:
        self.naps.append(moment_ns)
        self.now_ns = moment_ns


def test_a_sleep_naps_to_just_before_the_moment_and_spins_the_rest() -> None:
    clock = Ticking()
    sleep_until(10_000_000, clock, clock.nap_until)
    assert clock.naps == [10_000_000 - SPIN_NS]
    assert 10_000_000 <= clock.now_ns <= 10_001_000


def test_a_moment_that_is_near_is_only_spun_for() -> None:
    clock = Ticking()
    sleep_until(SPIN_NS, clock, clock.nap_until)
    assert clock.naps == []
    assert clock.now_ns >= SPIN_NS


def test_a_moment_that_has_passed_costs_nothing() -> None:
    clock = Ticking()
    clock.now_ns = 5_000_000
    sleep_until(1_000_000, clock, clock.nap_until)
    assert clock.naps == []
    assert clock.now_ns <= 5_002_000


def test_the_spin_is_at_most_300_us() -> None:
    assert SPIN_NS <= 300_000


def test_a_real_sleep_does_not_end_early_and_outlives_a_signal() -> None:
    lower_timer_slack()
    signals: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: signals.append(number))
    try:
        due_ns = time.perf_counter_ns() + 30_000_000
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        sleep_until(due_ns)
        assert time.perf_counter_ns() >= due_ns
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert signals == [signal.SIGALRM]


@pytest.mark.parametrize("name", ["perf_counter", "monotonic"])
def test_the_clock_of_the_loop_is_clock_monotonic(name: Any) -> None:
    assert time.get_clock_info(name).implementation == "clock_gettime(CLOCK_MONOTONIC)"
