"""Which runs may be believed."""

from __future__ import annotations

from typing import Any

import pytest

from backbench.controller.analysis.budgets import overall, unjudged
from backbench.controller.analysis.validity import Evidence, judge_validity, mismatch

COUNTS = {"offered": 1000, "completed": 1000, "dropped": 0, "errored": 0}
COUNTERS = {"major_fault_count": 0, "garbage_collection_count": 0, "suspend_ns": 0, "clock_step_ns": -900}


def check(passed: bool, error: float | None = 1e-6, finite: bool = True) -> dict[str, Any]:
    numbers = {"max_relative_error": error, "cosine": None, "finite": finite, "tolerance": 5e-3}
    return {"name": "logits", "passed": passed, **numbers}


def judged(state: str = "done", **evidence: Any) -> tuple[str, list[str]]:
    found = judge_validity(Evidence(state, COUNTS, **evidence))
    return found["status"], [reason["code"] for reason in found["reasons"]]


def test_a_run_that_nothing_speaks_against_is_still_unverified_without_a_throttle_witness() -> None:
    assert judged(counters=[COUNTERS]) == ("unverified", ["throttle_not_observed"])


def test_what_was_said_last_is_told_with_how_the_run_ended() -> None:
    (reason, _) = judge_validity(Evidence("interrupted", COUNTS, cause="the agent stopped"))["reasons"]
    assert reason == {"code": "run_not_done", "detail": "the run is interrupted: the agent stopped"}


def test_right_outputs_change_nothing() -> None:
    assert judged(outputs={"checks": [check(True)]}, reference=True) == judged()


def test_each_wrong_output_is_a_reason() -> None:
    checks = [check(False, 0.5), check(True), check(False, None, finite=False)]
    status, codes = judged(outputs={"checks": checks}, reference=True)
    assert (status, codes) == ("invalid", ["output_mismatch", "output_mismatch", "throttle_not_observed"])


@pytest.mark.parametrize(("state", "said"), [("done", True), ("failed", False), ("cancelled", False)])
def test_outputs_that_should_have_been_compared_and_were_not(state: str, said: bool) -> None:
    assert ("outputs_not_checked" in judged(state, reference=True)[1]) == said
    assert "outputs_not_checked" not in judged(state)[1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (check(False, 0.123456), "off by 0.12 of the reference's largest number, more than 0.005"),
        (check(False, None), "its reference is 0 everywhere"),
        (check(False, None, finite=False), "not finite"),
    ],
)
def test_a_mismatch_says_how_far_off_it_is(row: dict[str, Any], words: str) -> None:
    assert mismatch(row).startswith("output logits ")
    assert words in mismatch(row)


@pytest.mark.parametrize(
    ("evidence", "status", "code"),
    [
        ({"steady": ["flat", "slowdown"]}, "unstable", "slowdown"),
        ({"steady": ["no-steady-state"]}, "unstable", "no_steady_state"),
        ({"dependence": 0.03}, "unstable", "dependent_frames"),
        ({"spread": 0.06}, "unstable", "launches_differ"),
        ({"counters": [{**COUNTERS, "suspend_ns": 2 * 10**9}]}, "invalid", "suspended"),
        ({"counters": [{**COUNTERS, "swap_out_page_count": 3}]}, "invalid", "swapped"),
        ({"counters": [COUNTERS, {**COUNTERS, "garbage_collection_count": 1}]}, "invalid", "garbage_collected"),
        ({"counters": [{"major_fault_count": 0}]}, "unverified", "counters_unreadable"),
        ({"counters": [{**COUNTERS, "clock_step_ns": 5 * 10**9}]}, "unverified", "clock_step"),
        ({"load": {"pacer_late": True, "pacer_lateness_ms": {"p99": 2.0}}}, "unstable", "pacer_late"),
        ({"load": {"utilisation": 0.9}}, "unverified", "near_saturation"),
        ({"input_count": 7}, "unverified", "few_inputs"),
        ({"insufficient": {"p99": 459}}, "unverified", "insufficient_frames"),
    ],
)
def test_each_finding_has_its_weight(evidence: dict[str, Any], status: str, code: str) -> None:
    found, codes = judged(**evidence)
    assert (found, code in codes) == (status, True)


def test_a_loop_that_takes_a_share_of_the_frame_is_noisy() -> None:
    counters = [{**COUNTERS, "loop_overhead_p99_ns": 20_000}]
    assert "loop_noisy" in judged(counters=counters, service={"p50": {"value": 1.0}})[1]
    assert "loop_noisy" not in judged(counters=counters, service={"p50": {"value": 3.0}})[1]
    assert "loop_noisy" not in judged(counters=counters, service={"p50": None})[1]


@pytest.mark.parametrize("kind", ["flat", "warm-up", "too-short"])
def test_what_lies_within_its_margin_is_no_reason(kind: str) -> None:
    assert judged(steady=[kind], spread=0.05, dependence=0.05) == judged()


def test_the_heaviest_reason_comes_first() -> None:
    status, codes = judged("failed", spread=1.0, insufficient={"p99": 459})
    assert status == "invalid"
    assert codes == ["run_not_done", "launches_differ", "throttle_not_observed", "insufficient_frames"]


def test_budgets_that_are_not_judged_are_unknown_together() -> None:
    rows = [{"metric": "p50", "verdict": "pass"}, {"metric": "p99", "verdict": "reject"}]
    assert overall(unjudged(rows)) == "unknown"
    assert overall(unjudged([])) is None
    assert [row["verdict"] for row in rows] == ["pass", "reject"]
