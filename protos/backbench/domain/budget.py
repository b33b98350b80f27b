"""Budgets: `metric<=value unit`, e.g. "p99<=30ms" or "memory<=256MB"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from backbench.domain.errors import InvalidBudget


class Verdict(Enum):
    """What a measured value says of a budget."""

    PASS = "pass"  # noqa: S105
    OVER = "over"
    REJECT = "reject"
    UNKNOWN = "unknown"


REJECT_RATIO = 1.2
"""A value this many times the limit or more rules the backbone out."""

# Decimal, so that "p99<=1001us" and "p99<=1.001ms" are the same limit to the last bit. Both signs of micro are taken.
_UNITS: dict[str, dict[str, Decimal]] = {
    kind: {unit: Decimal(factor) for unit, factor in units.items()}
    for kind, units in {
        "time": {"ns": "1e-6", "us": "1e-3", "\u00b5s": "1e-3", "\u03bcs": "1e-3", "ms": "1", "s": "1e3"},
        "memory": {
            "kB": "1e-3",
            "KB": "1e-3",
            "KiB": "1024e-6",
            "MB": "1",
            "MiB": "1.048576",
            "GB": "1e3",
            "GiB": "1073.741824",
        },
    }.items()
}
_BASE = {"time": "ms", "memory": "MB"}
METRICS: dict[str, str] = {
    "p50": "time",
    "p90": "time",
    "p95": "time",
    "p99": "time",
    "mean": "time",
    "max": "time",
    "memory": "memory",
}
"""What can be limited, and its kind of unit. Times are those of the whole pipeline (span `service`)."""

_PATTERN = re.compile(r"\s*([A-Za-z][\w.]*)\s*(<=|>=|<|>|=+)\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*([^\s\d]*)\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on a metric; `limit` is in `unit`, which is ms for times and MB (10^6 bytes) for memory."""

    text: str
    metric: str
    limit: float
    unit: str

    def judge(self, value: float | None) -> Verdict:
        """The verdict on a value in the budget's unit: pass, over, reject at 20 % above the limit.

        Unknown for None and for a value that is not a number. The edge is decimal: 0.204 is 20 % above 0.17.
        """
        if value is None or math.isnan(value):
            return Verdict.UNKNOWN
        if value <= self.limit:
            return Verdict.PASS
        reject_from = Decimal(repr(float(self.limit))) * Decimal(repr(REJECT_RATIO))
        return Verdict.REJECT if Decimal(repr(float(value))) >= reject_from else Verdict.OVER


def parse_budget(text: str) -> Budget:
    """The budget that a text states. Raises InvalidBudget, naming what would be right."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise InvalidBudget(f'budget "{text}" is not of the form metric<=value unit; write for example "p99<=30ms"')
    metric, operator, number, unit = match.groups()
    if metric not in METRICS:
        raise InvalidBudget(f'budget "{text}": no metric "{metric}"; metrics are {", ".join(METRICS)}')
    if operator != "<=":
        raise InvalidBudget(f'budget "{text}": only "<=" can be asked; write "{metric}<={number}{unit}"')
    kind = METRICS[metric]
    units = _UNITS[kind]
    if unit not in units:
        problem = f'"{unit}" is not a unit of {kind}' if unit else "the unit is missing"
        example = f"{metric}<={number}{_BASE[kind]}"
        raise InvalidBudget(f'budget "{text}": {problem}; write one of {", ".join(units)}, for example "{example}"')
    try:
        limit = float(Decimal(number) * units[unit])
    except ArithmeticError:
        raise InvalidBudget(f'budget "{text}": "{number}" is not a number') from None
    if not 0 < limit < math.inf:
        raise InvalidBudget(f'budget "{text}": the limit must be above 0 and finite')
    return Budget("".join(text.split()), metric, limit, _BASE[kind])


def worst(verdicts: list[Verdict]) -> Verdict:
    """The verdict of several budgets together: reject, then over, then unknown, then pass; unknown for none."""
    for verdict in (Verdict.REJECT, Verdict.OVER, Verdict.UNKNOWN):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.UNKNOWN
