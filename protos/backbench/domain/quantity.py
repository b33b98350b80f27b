"""Numbers with units as people write them: "30ms", "256MB", "0.1%", "10m"."""

from __future__ import annotations

import re
from decimal import Decimal

from backbench.domain.errors import InvalidArgument

# Decimal, so that "1001us" and "1.001ms" are the same to the last bit. Both signs of micro are taken.
_TIME = {"ns": "1e-6", "us": "1e-3", "\u00b5s": "1e-3", "\u03bcs": "1e-3", "ms": "1", "s": "1e3"}
UNITS: dict[str, dict[str, Decimal]] = {
    kind: {unit: Decimal(factor) for unit, factor in units.items()}
    for kind, units in {
        "time": _TIME,
        "memory": {
            "kB": "1e-3",
            "KB": "1e-3",
            "KiB": "1024e-6",
            "MB": "1",
            "MiB": "1.048576",
            "GB": "1e3",
            "GiB": "1073.741824",
        },
        "share": {"%": "1"},
        "energy": {"uJ": "1e-6", "mJ": "1e-3", "J": "1"},
        "power": {"mW": "1e-3", "W": "1"},
        "temperature": {"C": "1", "\u00b0C": "1"},
        # Apart from "time": a latency of "30m" is a slip of the pen, a soak of "30m" is not.
        "duration": {**_TIME, "m": "60e3", "h": "3600e3"},
    }.items()
}
"""By kind: what one of each unit is in the kind's base unit."""
BASE_UNITS = {
    "time": "ms", "memory": "MB", "share": "%", "energy": "J", "power": "W", "temperature": "C", "duration": "ms",
}  # fmt: skip
_EXAMPLE_UNITS = {**BASE_UNITS, "duration": "s"}
_NUMBER = r"[+-]?[\d.]+(?:[eE][+-]?\d+)?"
QUANTITY_PATTERN = rf"({_NUMBER})\s*([^\s\d]*)"
"""A number and a unit, which may be empty, as two groups of a regular expression."""
_QUANTITY = re.compile(rf"\s*{QUANTITY_PATTERN}\s*")


def in_base_unit(number: str, unit: str, kind: str) -> Decimal | None:
    """A number with a unit of a kind, in the kind's base unit; None for what is no number or too large for one."""
    try:
        return Decimal(number) * UNITS[kind][unit]
    except ArithmeticError:
        return None


def unit_problem(number: str, unit: str, kind: str, before: str = "") -> str | None:
    """What is wrong with a unit, and an example of what would be right; None for a unit of that kind.

    >>> unit_problem("30", "", "share")
    'the unit is missing; write one of %, for example "30%"'
    """
    if unit in UNITS[kind]:
        return None
    problem = f'"{unit}" is not a unit of {kind}' if unit else "the unit is missing"
    example = f"{before}{number}{_EXAMPLE_UNITS[kind]}"
    return f'{problem}; write one of {", ".join(UNITS[kind])}, for example "{example}"'


def parse_quantity(name: str, text: str, kind: str) -> Decimal:
    """The quantity that a text states, in the base unit of its kind (`BASE_UNITS`); finite, of any sign.

    `name` is the flag or field that has the text. Raises InvalidArgument, naming it and what would be right.

    >>> int(parse_quantity("--duration", "10m", "duration"))
    600000
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        example = f"10{_EXAMPLE_UNITS[kind]}"
        raise InvalidArgument(f'{name} "{text}" is not a {kind}; write a number and a unit, for example "{example}"')
    number, unit = match.groups()
    if problem := unit_problem(number, unit, kind):
        raise InvalidArgument(f'{name} "{text}": {problem}')
    value = in_base_unit(number, unit, kind)
    if value is None or not value.is_finite():
        raise InvalidArgument(f'{name} "{text}": "{number}" is not a number, or too large')
    return value
