from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backbench.domain.budget import METRICS, SPANS, STATISTICS, Budget, Verdict, parse_budget, worst
from backbench.domain.errors import InvalidBudget


@pytest.mark.parametrize(
    ("text", "metric", "limit", "unit"),
    [
        ("p99<=30ms", "p99", 30.0, "ms"),
        ("  p99 <= 30 ms ", "p99", 30.0, "ms"),
        ("p50<=1.5s", "p50", 1500.0, "ms"),
        ("mean<=1001us", "mean", 1.001, "ms"),
        ("max<=29\u00b5s", "max", 0.029, "ms"),
        ("max<=29\u03bcs", "max", 0.029, "ms"),
        ("p90<=700ns", "p90", 0.0007, "ms"),
        ("p95<=1e2ms", "p95", 100.0, "ms"),
        ("p95<=.5ms", "p95", 0.5, "ms"),
        ("p95<=+5ms", "p95", 5.0, "ms"),
        ("memory<=256MB", "memory", 256.0, "MB"),
        ("memory<=1GiB", "memory", 1073.741824, "MB"),
        ("memory<=1GB", "memory", 1000.0, "MB"),
        ("memory<=1MiB", "memory", 1.048576, "MB"),
        ("memory<=1KiB", "memory", 0.001024, "MB"),
        ("memory<=1kB", "memory", 0.001, "MB"),
        ("p99.9<=40ms", "p99.9", 40.0, "ms"),
        ("cold_start<=2s", "cold_start", 2000.0, "ms"),
        ("drops<=0.1%", "drops", 0.1, "%"),
        ("misses <= 100 %", "misses", 100.0, "%"),
        ("compute.p99<=8ms", "compute.p99", 8.0, "ms"),
        ("e2e.p99.9<=50ms", "e2e.p99.9", 50.0, "ms"),
        ("host_gap.max<=90us", "host_gap.max", 0.09, "ms"),
        ("energy<=0.5J", "energy", 0.5, "J"),
        ("energy<=50 mJ", "energy", 0.05, "J"),
        ("power<=10W", "power", 10.0, "W"),
        ("power<=7500mW", "power", 7.5, "W"),
        ("temp<=85C", "temp", 85.0, "C"),
        ("temp<=85°C", "temp", 85.0, "C"),
    ],
)
def test_a_budget_is_read_in_its_base_unit(text: str, metric: str, limit: float, unit: str) -> None:
    budget = parse_budget(text)
    assert (budget.metric, budget.limit, budget.unit) == (metric, limit, unit)


def test_a_budget_keeps_its_text_without_white_space() -> None:
    assert parse_budget(" p99\t<= 30\n ms").text == "p99<=30ms"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not of the form"),
        ("fast", "not of the form"),
        ("p99", "not of the form"),
        ("p99<=", "not of the form"),
        ("<=30ms", "not of the form"),
        ("p99<=ms", "not of the form"),
        ("p99<=nanms", "not of the form"),
        ("p99<=infms", "not of the form"),
        ("p99<=30ms please", "not of the form"),
        ("p99<=30ms,memory<=1GB", "not of the form"),
        ("p99<=0x10ms", "not of the form"),
        ("p98<=30ms", "metrics are p50, p90, p95, p99, p99.9, mean, max, memory, drops, misses, cold_start"),
        ("p98<=30ms", 'such as "compute.p99", where spans are e2e, service, queue_delay, preprocess,'),
        ("compute<=30ms", "no metric"),
        ("compute.p98<=30ms", "no metric"),
        ("compute.memory<=30MB", "no metric"),
        ("engine.p99<=30ms", "no metric"),
        ("P99<=30ms", "no metric"),
        ("p99<30ms", 'write "p99<=30ms"'),
        ("p99>=30ms", 'only "<="'),
        ("p99==30ms", 'only "<="'),
        ("p99=30ms", 'only "<="'),
        ("p99<=30", "the unit is missing"),
        ("memory<=30", "the unit is missing"),
        ("p99<=30MB", '"MB" is not a unit of time'),
        ("p99<=30MS", '"MS" is not a unit of time'),
        ("memory<=30ms", '"ms" is not a unit of memory'),
        ("compute.p99<=30", '\u03bcs, ms, s, for example "compute.p99<=30ms"'),
        ("p99<=30m", '"m" is not a unit of time'),
        ("drops<=0.1", 'the unit is missing; write one of %, for example "drops<=0.1%"'),
        ("drops<=1ms", '"ms" is not a unit of share'),
        ("drops<=101%", "at most 100%"),
        ("energy<=5W", '"W" is not a unit of energy; write one of uJ, mJ, J'),
        ("power<=10", "the unit is missing; write one of mW, W"),
        ("temp<=85F", '"F" is not a unit of temperature'),
        ("p99<=1.2.3ms", '"1.2.3" is not a number'),
        ("p99<=.ms", '"." is not a number'),
        ("p99<=0ms", "above 0"),
        ("p99<=-5ms", "above 0"),
        ("p99<=1e-400ms", "above 0"),
        ("p99<=1e400ms", "finite"),
        ("p99<=1e999999s", ""),
        ("p99<=1e99999999999999999999s", ""),
    ],
)  # fmt: skip
def test_a_bad_budget_is_refused_with_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(InvalidBudget) as caught:
        parse_budget(text)
    assert says in caught.value.message
    assert f'"{text}"' in caught.value.message


@pytest.mark.parametrize(
    ("text", "span", "statistic"),
    [
        ("p99<=1ms", None, "p99"),
        ("p99.9<=1ms", None, "p99.9"),
        ("memory<=1MB", None, "memory"),
        ("queue_delay.mean<=1ms", "queue_delay", "mean"),
        ("compute.p99.9<=1ms", "compute", "p99.9"),
    ],
)
def test_a_metric_is_a_statistic_of_one_span_or_of_none(text: str, span: str | None, statistic: str) -> None:
    budget = parse_budget(text)
    assert (budget.span, budget.statistic) == (span, statistic)


def test_every_statistic_of_every_span_can_be_limited() -> None:
    for span in SPANS:
        for statistic in STATISTICS:
            assert parse_budget(f"{span}.{statistic}<=1ms").span == span


@given(st.text(max_size=20))
@example("p99<=²ms")
@example("p99<=٣ms")
def test_any_text_is_a_budget_or_refused_as_one(text: str) -> None:
    try:
        budget = parse_budget(text)
    except InvalidBudget:
        return
    assert budget.metric in METRICS
    assert 0 < budget.limit < math.inf


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (None, Verdict.UNKNOWN),
        (math.nan, Verdict.UNKNOWN),
        (0.0, Verdict.PASS),
        (30.0, Verdict.PASS),
        (math.nextafter(30.0, math.inf), Verdict.OVER),
        (math.nextafter(36.0, 0), Verdict.OVER),
        (36.0, Verdict.REJECT),
        (math.inf, Verdict.REJECT),
    ],
)
def test_a_value_is_over_until_20_percent_above_the_limit_and_then_rejected(
    value: float | None, verdict: Verdict
) -> None:
    assert parse_budget("p99<=30ms").judge(value) is verdict


@given(st.integers(1, 10**6), st.integers(0, 4))
@example(17, 2)
def test_exactly_20_percent_above_is_a_reject_whatever_the_decimals(digits: int, places: int) -> None:
    limit = float(f"{digits}e-{places}")
    a_fifth_above = float(f"{digits * 12}e-{places + 1}")
    budget = Budget("", "p99", limit, "ms")
    assert budget.judge(a_fifth_above) is Verdict.REJECT
    assert budget.judge(math.nextafter(a_fifth_above, 0)) is Verdict.OVER
    assert budget.judge(limit) is Verdict.PASS


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([], Verdict.UNKNOWN),
        ([Verdict.PASS], Verdict.PASS),
        ([Verdict.PASS, Verdict.UNKNOWN], Verdict.UNKNOWN),
        ([Verdict.PASS, Verdict.UNKNOWN, Verdict.OVER], Verdict.OVER),
        ([Verdict.OVER, Verdict.REJECT, Verdict.UNKNOWN], Verdict.REJECT),
    ],
)
def test_the_worst_verdict_speaks_for_all(verdicts: list[Verdict], together: Verdict) -> None:
    assert worst(verdicts) is together


def test_none_at_all_can_be_asked_of_drops() -> None:
    budget = parse_budget("drops<=0%")
    assert [budget.judge(value) for value in (0.0, 0.01)] == [Verdict.PASS, Verdict.REJECT]
