"""Numbers that depend on the input's size: what an expression gives, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbench.models.size_expression import InputSize, parse_expression

SIZE = InputSize(3, 257, 224)
FACTORS = st.one_of(st.just("n"), st.from_regex(r"\A[hwHW][1-9][0-9]{0,3}\Z"), st.integers(-999, 999).map(str))
EXPRESSIONS = st.lists(st.lists(FACTORS, min_size=1, max_size=8).map("*".join), min_size=1, max_size=8).map("+".join)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n", 3),
        ("-7", -7),
        ("h14", 18),
        ("H14", 19),
        ("w14", 16),
        ("W14", 16),
        ("h9999", 0),
        ("H9999", 1),
        ("n*h14*w14+1", 3 * 18 * 16 + 1),
        ("768*n", 2304),
        ("7*H28+-1*h4", 7 * 10 - 64),
    ],
)
def test_an_expression_counts_whole_cells_and_covering_cells(text: str, value: int) -> None:
    assert parse_expression(text).value(SIZE) == value


@given(EXPRESSIONS)
def test_an_expression_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_expression(text)) == text


@given(st.integers(1, 9999), st.integers(1, 99999))
def test_cells_that_cover_are_at_most_one_more_than_cells_that_fit(cell: int, side: int) -> None:
    size = InputSize(1, side, side)
    fit, cover = (parse_expression(f"{kind}{cell}").value(size) for kind in "hH")
    assert fit * cell <= side <= cover * cell
    assert cover - fit == (side % cell > 0)


@pytest.mark.parametrize(("text", "constant"), [("7", True), ("-1*3+4", True), ("n", False), ("2+W7", False)])
def test_an_expression_knows_whether_it_depends_on_the_size(text: str, constant: bool) -> None:
    assert parse_expression(text).is_constant() is constant


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "h", "h0", "h014", "h14 ", "x14", "N", "h14*", "+n", "h16^9", "2**64", "h16/2", "(n)", "1e9", "n\n",
        "1.5", "--1", "h٤", "٤", "h12345", "1234567890123", "__import__('os')",
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="is no size variable") as error:
        parse_expression(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["*".join(["n"] * 9), "+".join(["1"] * 9), "*".join(["9"] * 100_000), "+" * 100_000])
def test_an_expression_that_would_take_long_to_work_out_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is longer than any expression is") as error:
        parse_expression(text)
    assert len(str(error.value)) < 200
