"""Certificates as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from rich.console import RenderableType

from backbench.controller.report.words import NONE, table_of

_SERIAL_DIGITS = 12


def certificate_table(issued: Iterable[Mapping[str, Any]]) -> RenderableType:
    """What an authority issued, one row each, from `backbench.pki/1`; the serial numbers are beginnings."""
    table = table_of("name", "kind", "role", "until", "state", "serial", left=6)
    for each in issued:
        serial = each["serial"][:_SERIAL_DIGITS]
        table.add_row(
            each["name"], each["kind"], each["role"] or NONE, day(each["not_after_unix_s"]), each["state"], serial
        )
    return table


def day(unix_s: int) -> str:
    """The day of an instant, in UTC."""
    return str(datetime.fromtimestamp(unix_s, timezone.utc).date())
