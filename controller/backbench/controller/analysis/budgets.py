"""Budgets against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from backbench.controller.analysis.percentiles import QUANTILES
from backbench.domain.budget import METRICS, Budget, Verdict, parse_budget, worst
from backbench.domain.run import Scenario, ScenarioName

Part = Mapping[str, Any] | None
"""A part of a run's document; None where it was not measured."""


OF_TELEMETRY = ("energy", "power", "temp")
"""Metrics that the device's sensors tell; they are the run's, not a step's."""


def judge(
    budgets: Sequence[str],
    scenario: Scenario,
    latency_ms: Mapping[str, Part],
    *,
    peak_mb: float | None = None,
    load: Part = None,
    cold_start_ms: float | None = None,
    telemetry: Part = None,
) -> list[dict[str, Any]]:
    """One row a budget: its text, metric, span, value, upper, limit, unit, verdict, confident.

    A time without a span is that of the whole pipeline (`pipeline_span`). `peak_mb` is in MB of 10^6 bytes, `load` has
    `drop_ratio` and `miss_ratio` as {value, low, high} of 0..1 or None, `cold_start_ms` is the total, `telemetry` has
    `energy`, `power` and `temp` as {value, high} in J, W and C or None. Values are in the row's unit; `upper` is the
    upper confidence bound of a percentile or share or the upper end of an energy's or power's interval, `confident`
    whether it too lies within the limit, and both are None where there is no bound. `span` is the span that was judged,
    None for other metrics.
    Where too few frames carry a percentile, `at_least` is the highest one below it that they do carry: above the limit
    it decides. Raises InvalidBudget.
    """
    measured = _Measured(scenario, latency_ms, peak_mb, load, cold_start_ms, telemetry)
    return [_row(parse_budget(text), measured) for text in budgets]


def pipeline_span(scenario: Scenario) -> str:
    """The span that is a frame's whole time: from its intended arrival in open-loop scenarios, else `service`."""
    return "e2e" if scenario.open_loop else "service"


def why_unmeasurable(budget: Budget, scenario: Scenario) -> str | None:
    """What keeps a scenario from measuring a budget's metric, with the remedy; None when it can."""
    name, metric = scenario.name.value, budget.metric
    remedy = "add" if scenario.name in (ScenarioName.SOAK, ScenarioName.STREAMS) else "take --scenario paced"
    queued = scenario.open_loop or scenario.name is ScenarioName.IDLE_FIRE
    if metric in ("drops", "misses") and not scenario.open_loop:
        return f"in {name} no frame arrives before its turn, so there are no {metric}; {remedy} --fps N"
    if metric == "misses" and scenario.deadline_ns is None and scenario.name is not ScenarioName.SWEEP:
        return f"{name} has no deadline that a frame could miss; add --deadline TIME"
    if budget.span == "queue_delay" and not queued:
        return f"in {name} no frame waits, so there is no queue_delay; {remedy} --fps N"
    return None


def unjudged(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with no verdict: what was measured is not what was asked for, such as a wrong engine."""
    return [{**row, "verdict": Verdict.UNKNOWN.value, "confident": None} for row in rows]


def overall(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The verdict of all budgets together; None when there are none."""
    return worst([Verdict(row["verdict"]) for row in rows]).value if rows else None


@dataclass(frozen=True, slots=True)
class _Measured:
    scenario: Scenario
    latency_ms: Mapping[str, Part]
    peak_mb: float | None
    load: Part
    cold_start_ms: float | None
    telemetry: Part


def _row(budget: Budget, measured: _Measured) -> dict[str, Any]:
    timed = METRICS[budget.metric] == "time" and budget.metric != "cold_start"
    span = (budget.span or pipeline_span(measured.scenario)) if timed else None
    value, upper = _time(measured.latency_ms.get(span), budget.statistic) if span else _other(budget.metric, measured)
    at_least = _at_least(measured.latency_ms.get(span), budget.statistic) if span and value is None else None
    exceeded = at_least is not None and at_least > budget.limit
    return {
        "text": budget.text,
        "metric": budget.metric,
        "span": span,
        "value": value,
        "upper": upper,
        "at_least": at_least,
        "limit": budget.limit,
        "unit": budget.unit,
        "verdict": budget.judge(at_least if exceeded else value).value,
        "confident": None if upper is None else upper <= budget.limit,
    }


def _time(distribution: Part, statistic: str) -> tuple[float | None, float | None]:
    found = None if distribution is None else distribution.get(statistic)
    return (found["value"], found["upper"]) if isinstance(found, Mapping) else (found, None)


def _at_least(distribution: Part, statistic: str) -> float | None:
    """The highest percentile below one that is not carried; None for other statistics, or where none is carried."""
    names = list(QUANTILES)
    below = names[: names.index(statistic)] if statistic in names else []
    found = [(distribution or {}).get(name) for name in below]
    return max((each["value"] for each in found if each is not None), default=None)


def _other(metric: str, measured: _Measured) -> tuple[float | None, float | None]:
    if metric == "memory":
        return measured.peak_mb, None
    if metric == "cold_start":
        return measured.cold_start_ms, None
    if metric in OF_TELEMETRY:
        read = (measured.telemetry or {}).get(metric)
        return (None, None) if read is None else (read["value"], read["high"])
    share = (measured.load or {}).get({"drops": "drop_ratio", "misses": "miss_ratio"}[metric])
    return (None, None) if share is None else (_percent(share["value"]), _percent(share["high"]))


def _percent(ratio: float | None) -> float | None:
    """Through decimals, as 0.07 * 100 is above 7 in binary."""
    return None if ratio is None else float(Decimal(repr(float(ratio))) * 100)
