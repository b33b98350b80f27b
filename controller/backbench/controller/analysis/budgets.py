"""Budgets against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backbench.domain.budget import METRICS, Verdict, parse_budget, worst


def judge(budgets: Sequence[str], service: Mapping[str, Any] | None, peak_mb: float | None) -> list[dict[str, Any]]:
    """One row a budget. Times are those of `service`, the whole pipeline; memory is the peak in MB (10^6 bytes)."""
    rows = []
    for text in budgets:
        budget = parse_budget(text)
        value, upper = _measured(budget.metric, service, peak_mb)
        verdict = budget.judge(value)
        rows.append(
            {
                "text": budget.text,
                "metric": budget.metric,
                "value": value,
                "upper": upper,
                "limit": budget.limit,
                "unit": budget.unit,
                "verdict": verdict.value,
            }
        )
    return rows


def unjudged(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with no verdict: what was measured is not what was asked for, such as a wrong engine."""
    return [{**row, "verdict": Verdict.UNKNOWN.value} for row in rows]


def overall(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The verdict of all budgets together; None when there are none."""
    return worst([Verdict(row["verdict"]) for row in rows]).value if rows else None


def _measured(
    metric: str, service: Mapping[str, Any] | None, peak_mb: float | None
) -> tuple[float | None, float | None]:
    if METRICS[metric] == "memory":
        return peak_mb, None
    found = None if service is None else service[metric]
    if isinstance(found, Mapping):
        return found["value"], found["upper"]
    return found, None
