"""Budgets against the parts of a run's document."""

from __future__ import annotations

from typing import Any

import pytest

from backbench.controller.analysis.budgets import judge, overall, unjudged, why_unmeasurable
from backbench.controller.analysis.latency import SPANS
from backbench.domain import budget as domain
from backbench.domain.budget import parse_budget
from backbench.domain.run import Scenario, ScenarioName

PACED = Scenario(ScenarioName.PACED, rate_mhz=30_000, deadline_ns=33_333_333)
CLOSED = Scenario()


def distribution(p50: float, p99: float | None, upper: float | None = None) -> dict[str, Any]:
    tail = None if p99 is None else {"value": p99, "upper": upper}
    return {"mean": p50 + 0.5, "p50": {"value": p50, "upper": p50}, "p99": tail, "max": 99.0}


LATENCY = {
    "e2e": distribution(20.0, 40.0, 45.0),
    "service": distribution(10.0, 12.0, 13.0),
    "compute": distribution(7.0, 8.0, None),
    "host_to_device": None,
}


def row(text: str, scenario: Scenario = CLOSED, **parts: Any) -> dict[str, Any]:
    (judged,) = judge([text], scenario, LATENCY, **parts)
    return judged


def test_the_spans_that_a_budget_can_name_are_those_of_the_document() -> None:
    assert set(domain.SPANS) == set(SPANS)


def test_a_time_is_the_whole_pipeline_of_service_where_frames_follow_back_to_back() -> None:
    for scenario in (CLOSED, Scenario(ScenarioName.OFFLINE), Scenario(ScenarioName.SOAK, duration_ns=10**9)):
        judged = row("p99<=12.5ms", scenario)
        assert (judged["span"], judged["value"], judged["upper"]) == ("service", 12.0, 13.0)


@pytest.mark.parametrize("name", ["paced", "poisson", "trace", "soak", "sweep"])
def test_a_time_counts_from_the_intended_arrival_where_frames_have_a_clock_of_their_own(name: str) -> None:
    judged = row("p99<=12.5ms", Scenario(ScenarioName(name), rate_mhz=30_000))
    assert (judged["span"], judged["value"], judged["verdict"]) == ("e2e", 40.0, "reject")


def test_a_named_span_is_judged_whatever_the_scenario() -> None:
    for scenario in (CLOSED, PACED):
        judged = row("compute.p99<=10ms", scenario)
        assert (judged["span"], judged["value"], judged["verdict"]) == ("compute", 8.0, "pass")
        assert (judged["upper"], judged["confident"]) == (None, None)
    assert row("service.mean<=1s", PACED)["value"] == 10.5
    assert row("host_to_device.p50<=1ms")["verdict"] == "unknown"
    assert row("p99.9<=1s")["verdict"] == "unknown"  # a document of an older version has none


@pytest.mark.parametrize(
    ("text", "verdict", "confident"),
    [
        ("p99<=13ms", "pass", True),
        ("p99<=12.5ms", "pass", False),
        ("p99<=11ms", "over", False),
        ("max<=1s", "pass", None),
    ],
)
def test_a_verdict_is_confident_when_the_upper_bound_holds_too(text: str, verdict: str, confident: bool | None) -> None:
    judged = row(text)
    assert (judged["verdict"], judged["confident"]) == (verdict, confident)


def test_a_percentile_that_is_not_carried_is_above_the_limit_where_a_lower_one_is() -> None:
    few = {"service": {"p50": {"value": 80.0, "upper": 81.0}, "p90": {"value": 85.0, "upper": None}, "p99": None}}
    (above,) = judge(["p99<=30ms"], CLOSED, few)
    assert (above["value"], above["at_least"], above["verdict"]) == (None, 85.0, "reject")
    (near,) = judge(["p99<=80ms"], CLOSED, few)
    assert near["verdict"] == "over"
    (open_,) = judge(["p99<=90ms"], CLOSED, few)
    assert (open_["at_least"], open_["verdict"]) == (85.0, "unknown")
    (carried,) = judge(["p90<=90ms"], CLOSED, few)
    assert (carried["at_least"], carried["verdict"]) == (None, "pass")
    (highest,) = judge(["max<=1ms"], CLOSED, {"service": None})
    assert (highest["at_least"], highest["verdict"]) == (None, "unknown")


def test_shares_are_judged_in_percent_with_their_upper_end() -> None:
    load = {"drop_ratio": {"value": 0.07, "low": 0.05, "high": 0.09}, "miss_ratio": None}
    judged = row("drops<=7%", PACED, load=load)
    assert (judged["value"], judged["upper"], judged["unit"]) == (7.0, 9.0, "%")
    assert (judged["verdict"], judged["confident"], judged["span"]) == ("pass", False, None)
    assert row("misses<=1%", PACED, load=load)["verdict"] == "unknown"
    assert row("drops<=1%", PACED)["verdict"] == "unknown"


def test_memory_and_cold_start_are_judged_by_their_own_parts() -> None:
    assert row("memory<=100MB", peak_mb=130.0)["verdict"] == "reject"
    assert row("cold_start<=2s", cold_start_ms=1500.0)["value"] == 1500.0
    rows = judge(["memory<=100MB", "cold_start<=2s", "p50<=10ms"], CLOSED, LATENCY)
    assert [each["verdict"] for each in rows] == ["unknown", "unknown", "pass"]
    assert overall(rows) == "unknown"
    assert overall([]) is None


def test_what_was_measured_of_something_else_is_no_verdict() -> None:
    (changed,) = unjudged([row("p99<=13ms")])
    assert (changed["verdict"], changed["confident"], changed["value"]) == ("unknown", None, 12.0)


@pytest.mark.parametrize(
    ("text", "scenario", "words"),
    [
        ("drops<=1%", CLOSED, "in closed-loop no frame arrives before its turn, so there are no drops"),
        ("drops<=1%", CLOSED, "take --scenario paced --fps N"),
        ("misses<=1%", Scenario(ScenarioName.SOAK), "so there are no misses; add --fps N"),
        ("misses<=1%", Scenario(ScenarioName.POISSON, rate_mhz=5), "poisson has no deadline that a frame could miss"),
        ("queue_delay.p99<=1ms", Scenario(ScenarioName.OFFLINE), "in offline no frame waits"),
        ("misses<=1%", PACED, None),
        ("misses<=1%", Scenario(ScenarioName.SWEEP), None),
        ("drops<=1%", Scenario(ScenarioName.TRACE), None),
        ("queue_delay.p99<=1ms", PACED, None),
        ("queue_delay.p99<=1ms", Scenario(ScenarioName.IDLE_FIRE), None),
        ("e2e.p99<=1ms", CLOSED, None),
    ],
)
def test_what_a_scenario_cannot_measure_is_known_beforehand(text: str, scenario: Scenario, words: str | None) -> None:
    reason = why_unmeasurable(parse_budget(text), scenario)
    assert reason is None if words is None else reason is not None and words in reason
