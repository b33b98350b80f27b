"""Which runs may be believed."""

from __future__ import annotations

from typing import Any

import pytest

from backbench.controller.analysis.budgets import overall, unjudged
from backbench.controller.analysis.validity import judge_validity, mismatch

COUNTS = {"offered": 1000, "completed": 1000, "dropped": 0, "errored": 0}


def check(passed: bool, error: float | None = 1e-6, finite: bool = True) -> dict[str, Any]:
    numbers = {"max_relative_error": error, "cosine": None, "finite": finite, "tolerance": 5e-3}
    return {"name": "logits", "passed": passed, **numbers}


def codes(judged: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in judged["reasons"]]


def test_right_outputs_change_nothing() -> None:
    plain = judge_validity("done", COUNTS, None)
    assert judge_validity("done", COUNTS, None, outputs={"checks": [check(True)]}, reference=True) == plain


def test_each_wrong_output_is_a_reason() -> None:
    checks = [check(False, 0.5), check(True), check(False, None, finite=False)]
    judged = judge_validity("done", COUNTS, None, outputs={"checks": checks}, reference=True)
    assert judged["status"] == "invalid"
    assert codes(judged) == ["output_mismatch", "output_mismatch", "throttle_not_observed"]


@pytest.mark.parametrize(("state", "said"), [("done", True), ("failed", False), ("cancelled", False)])
def test_outputs_that_should_have_been_compared_and_were_not(state: str, said: bool) -> None:
    assert ("outputs_not_checked" in codes(judge_validity(state, COUNTS, None, reference=True))) == said
    assert "outputs_not_checked" not in codes(judge_validity(state, COUNTS, None))


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


def test_budgets_that_are_not_judged_are_unknown_together() -> None:
    rows = [{"metric": "p50", "verdict": "pass"}, {"metric": "p99", "verdict": "reject"}]
    assert overall(unjudged(rows)) == "unknown"
    assert overall(unjudged([])) is None
    assert [row["verdict"] for row in rows] == ["pass", "reject"]
