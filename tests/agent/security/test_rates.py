from __future__ import annotations

from backbench.agent.security.rates import Rates


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_is_let_through_and_the_next_call_waits_for_a_token() -> None:
    clock = Clock()
    rates = Rates(per_second=10, burst=5, clock=clock)
    assert [rates.take("ann") for _ in range(6)] == [True] * 5 + [False]
    clock.now_s += 0.11
    assert [rates.take("ann"), rates.take("ann")] == [True, False]


def test_a_rest_fills_the_bucket_and_no_more() -> None:
    clock = Clock()
    rates = Rates(per_second=10, burst=3, clock=clock)
    assert [rates.take("ann") for _ in range(3)] == [True] * 3
    clock.now_s += 3600
    assert [rates.take("ann") for _ in range(4)] == [True] * 3 + [False]


def test_callers_have_buckets_of_their_own() -> None:
    rates = Rates(per_second=1, burst=1, clock=Clock())
    assert [rates.take("ann"), rates.take("ann"), rates.take("bea")] == [True, False, True]
