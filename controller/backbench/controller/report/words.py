"""Numbers and verdicts as cells of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

NONE = "—"
_STYLES = {
    "pass": "green", "ok": "green", "done": "green", "over": "yellow", "unverified": "yellow", "unknown": "yellow",
    "unstable": "yellow", "queued": "cyan", "running": "cyan", "reject": "bold red", "invalid": "bold red",
    "failed": "bold red", "interrupted": "red", "cancelled": "yellow",
}  # fmt: skip


def table_of(*headers: str, left: int) -> Table:
    """A table whose first `left` columns hold words, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place < left else "right", overflow="fold")
    return table


def percentile(span: Mapping[str, Any] | None, name: str) -> str:
    """A percentile of a distribution, or a dash."""
    return NONE if span is None or span.get(name) is None else number(span[name]["value"], 2)


def number(value: float | None, digits: int) -> str:
    """A number with so many decimals, or a dash."""
    return NONE if value is None else f"{value:.{digits}f}"


def percent(ratio: float | None, digits: int = 1) -> str:
    """A share of 1 as a percentage, or a dash."""
    return NONE if ratio is None else f"{ratio * 100:.{digits}f} %"


def share(interval: Mapping[str, float] | None) -> str:
    """A share with its interval."""
    if interval is None:
        return NONE
    return f"{percent(interval['value'], 2)} ({interval['low'] * 100:.2f} to {interval['high'] * 100:.2f} %)"


def word(name: str) -> Text:
    """A state or verdict in its colour."""
    return Text(name, style=_STYLES.get(name, ""))


def outputs_wrong(document: Mapping[str, Any]) -> bool:
    """Whether a run's outputs are not those of the reference."""
    outputs = document.get("outputs")  # a document of an older version has none
    return outputs is not None and not outputs["passed"]


def judgement(document: Mapping[str, Any]) -> str:
    """A run's verdict, unless its numbers are worth nothing; its state where it has none."""
    invalid = document["state"] == "done" and document["validity"]["status"] == "invalid"
    return "invalid" if invalid else document["verdict"] or document["state"]
