"""When frames arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.domain.arrivals import constant_due_ns, parse_trace
from backbench.domain.errors import InvalidArgument


def test_a_constant_rate_never_drifts() -> None:
    assert constant_due_ns(30, 30_000) == 10**9
    assert constant_due_ns(2_000_000 * 30, 30_000) == 2_000_000 * 10**9
    assert constant_due_ns(29_970, 29_970) == 1000 * 10**9


@given(st.integers(0, 2_000_000), st.integers(1, 1_000_000))
def test_no_arrival_is_a_nanosecond_off(frame: int, rate_mhz: int) -> None:
    due = constant_due_ns(frame, rate_mhz)
    assert due * rate_mhz <= frame * 10**12 < (due + 1) * rate_mhz


def test_a_trace_begins_at_0_and_may_have_comments_and_equal_times() -> None:
    assert parse_trace("# a camera\n\n500 # first\n500\n1500\n") == (0, 0, 1000)
    assert parse_trace("-10\n10") == (0, 20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no arrivals"),
        ("# nothing\n", "no arrivals"),
        ("5\n4\n", "line 2: a negative gap: 4 comes after 5"),
        ("1.5\n", 'line 1: "1.5" is not a whole number'),
        ("1\nsoon\n", 'line 2: "soon"'),
        ("--5\n", "line 1"),
        ("٣\n", "line 1"),
        ("9" * 30, "line 1"),
        (f"0\n{10**14}\n", "more than 24 hours"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_trace(text)
    assert words in error.value.message
    assert "\n" not in error.value.message
