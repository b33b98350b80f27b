"""Numbers and quantities of the command line against their ranges, named by their flags."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

from backbench.domain.errors import InvalidArgument, InvalidRunSpec
from backbench.domain.quantity import parse_quantity


def within(flag: str, value: float, lowest: float, highest: float) -> None:
    """Raises InvalidRunSpec, naming the range, for a value outside it; a value that is no number is outside."""
    if not lowest <= value <= highest:
        allowed = f"at least {lowest:g}" if highest == math.inf else f"between {lowest:g} and {highest:g}"
        stated = value if isinstance(value, int) else f"{value:.15g}"
        raise InvalidRunSpec(f"{flag} is {stated}; it must be {allowed}")


def quantity_within(flag: str, text: str, kind: str, lowest: str, highest: str) -> float:
    """The quantity that a text states, in the base unit of its kind; the ends of the range are such texts, too.

    Raises InvalidArgument for a text that states none, InvalidRunSpec for one outside the range.
    """
    value = parse_quantity(flag, text, kind)
    if not parse_quantity(flag, lowest, kind) <= value <= parse_quantity(flag, highest, kind):
        raise InvalidRunSpec(f"{flag} is {text}; it must lie between {lowest} and {highest}")
    return float(value)


def nanoseconds_within(flag: str, text: str, lowest: str, highest: str) -> int:
    """As `quantity_within`, for a length of time in whole nanoseconds."""
    return round(quantity_within(flag, text, "duration", lowest, highest) * 1e6)


def one_of(flag: str, text: str, names: Sequence[str]) -> str:
    """The text, if it is one of the names. Raises InvalidArgument with the closest ones, or with all."""
    if text in names:
        return text
    close = difflib.get_close_matches(text, names, 3, 0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"take one of {', '.join(names)}"
    raise InvalidArgument(f'{flag} "{text}" is not known; {hint}')
