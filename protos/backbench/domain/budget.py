"""Budgets: `metric<=value unit`, e.g. "p99<=30ms", "compute.p50<=8ms", "drops<=0.1%" or "energy<=0.5J"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from backbench.domain.errors import InvalidBudget
from backbench.domain.quantity import BASE_UNITS, QUANTITY_PATTERN, in_base_unit, unit_problem


class Verdict(Enum):
    """What a measured value says of a budget."""

    PASS = "pass"  # noqa: S105
    OVER = "over"
    REJECT = "reject"
    UNKNOWN = "unknown"


REJECT_RATIO = 1.2
"""A value this many times the limit or more rules the backbone out."""

SPANS = (
    "e2e",
    "service",
    "queue_delay",
    "preprocess",
    "host_to_device",
    "compute",
    "device_to_host",
    "postprocess",
    "host_gap",
)
STATISTICS = ("p50", "p90", "p95", "p99", "p99.9", "mean", "max")
_ALONE = {
    **dict.fromkeys(STATISTICS, "time"),
    "memory": "memory",
    "drops": "share",
    "misses": "share",
    "cold_start": "time",
    "energy": "energy",
    "power": "power",
    "temp": "temperature",
}
METRICS: dict[str, str] = {
    **_ALONE,
    **{f"{span}.{statistic}": "time" for span in SPANS for statistic in STATISTICS},
}
"""What can be limited, and its kind of quantity.

A statistic without a span is that of the whole pipeline: `e2e`, from the intended arrival, where frames arrive by a
clock of their own, `service` elsewhere. "drops" and "misses" are shares of the offered frames, "energy" is that of one
completed frame, "power" the mean, "temp" the highest of the hottest zone.
"""

_PATTERN = re.compile(rf"\s*([A-Za-z][\w.]*)\s*(<=|>=|<|>|=+)\s*{QUANTITY_PATTERN}\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on a metric; `limit` is in `unit`, the base unit of its kind: ms, MB (10^6 bytes), %, J, W, C."""

    text: str
    metric: str
    limit: float
    unit: str

    @property
    def span(self) -> str | None:
        """The span that the metric names; None for a metric that names none."""
        first = self.metric.partition(".")[0]
        return first if first in SPANS else None

    @property
    def statistic(self) -> str:
        """The metric without its span: "p99" of "compute.p99", "memory" of "memory"."""
        return self.metric if self.span is None else self.metric.partition(".")[2]

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
        raise InvalidBudget(
            f'budget "{text}": no metric "{metric}"; metrics are {", ".join(_ALONE)}, and those of one span, such as'
            f' "compute.p99", where spans are {", ".join(SPANS)}'
        )
    if operator != "<=":
        raise InvalidBudget(f'budget "{text}": only "<=" can be asked; write "{metric}<={number}{unit}"')
    kind = METRICS[metric]
    if problem := unit_problem(number, unit, kind, f"{metric}<="):
        raise InvalidBudget(f'budget "{text}": {problem}')
    value = in_base_unit(number, unit, kind)
    if value is None:
        raise InvalidBudget(f'budget "{text}": "{number}" is not a number, or too large')
    limit = float(value)
    if not 0 <= limit < math.inf or (limit == 0 and kind != "share"):
        raise InvalidBudget(f'budget "{text}": the limit must be above 0 and finite')
    if kind == "share" and limit > 100:
        raise InvalidBudget(f'budget "{text}": the limit is a share of the offered frames; it must be at most 100%')
    return Budget("".join(text.split()), metric, limit, BASE_UNITS[kind])


def worst(verdicts: list[Verdict]) -> Verdict:
    """The verdict of several budgets together: reject, then over, then unknown, then pass; unknown for none."""
    for verdict in (Verdict.REJECT, Verdict.OVER, Verdict.UNKNOWN):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.UNKNOWN
