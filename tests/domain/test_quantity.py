from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.domain.errors import InvalidArgument
from backbench.domain.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("33ms", "duration", 33),
        (" 10 m ", "duration", 600_000),
        ("1.5h", "duration", 5_400_000),
        ("29\u00b5s", "time", 0.029),
        ("256MB", "memory", 256),
        ("1GiB", "memory", 1073.741824),
        ("0.1%", "share", 0.1),
        ("-5s", "duration", -5000),
    ],
)
def test_a_quantity_is_read_in_the_base_unit_of_its_kind(text: str, kind: str, value: float) -> None:
    assert float(parse_quantity("--flag", text, kind)) == value


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", "duration", 'is not a duration; write a number and a unit, for example "10s"'),
        ("soon", "duration", "is not a duration"),
        ("10", "duration", 'the unit is missing; write one of ns, us, \u00b5s, \u03bcs, ms, s, m, h, for'),
        ("10min", "duration", '"min" is not a unit of duration'),
        ("10m", "time", '"m" is not a unit of time'),
        ("256", "memory", 'for example "256MB"'),
        ("1", "share", 'for example "1%"'),
        ("1.2.3s", "duration", '"1.2.3" is not a number'),
        ("1e999999999s", "duration", "too large"),
        ("nan%", "share", "is not a share"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_quantity_is_refused_with_what_would_be_right(text: str, kind: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_quantity("--flag", text, kind)
    assert caught.value.message.startswith(f'--flag "{text}"')
    assert says in caught.value.message


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_refused_as_one(text: str) -> None:
    try:
        value = parse_quantity("--flag", text, "duration")
    except InvalidArgument:
        return
    assert math.isfinite(value)
