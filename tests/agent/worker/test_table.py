"""Rows that are known beforehand are there before the window, and no others."""

from __future__ import annotations

from collections.abc import Callable

from backbench.agent.worker import table
from backbench.agent.worker.table import COLUMNS, NOT_REACHED, PENDING, WIDTH, row_offset

MakeTable = Callable[[int], table.FrameTable]


def test_a_prepared_row_is_pending_with_its_number_and_input_and_no_time(make_table: MakeTable) -> None:
    frames = make_table(8)
    frames.prepare(2, 4, tags=1, input_count=3)
    columns = frames.columns(2, 6)
    assert columns["index"] == (2, 3, 4, 5)
    assert columns["input"] == (2, 0, 1, 2)
    assert columns["tags"] == (1,) * 4
    assert columns["outcome"] == (PENDING,) * 4
    times = [name for name in COLUMNS if name.endswith("_ns")]
    assert all(columns[name] == (NOT_REACHED,) * 4 for name in times)
    assert frames.written == 0


def test_only_the_rows_that_are_prepared_are_written(make_table: MakeTable) -> None:
    frames = make_table(8)
    for word in range(row_offset(0), row_offset(8)):
        frames.words[word] = 7
    frames.words[0] = 3
    frames.prepare(4, 2)
    assert set(frames.words[row_offset(0) : row_offset(4)]) == {7}
    assert set(frames.words[row_offset(6) : row_offset(8)]) == {7}
    assert frames.written == 3


def test_rows_are_as_wide_as_the_columns(make_table: MakeTable) -> None:
    assert row_offset(5) - row_offset(4) == WIDTH == len(COLUMNS)
    frames = make_table(2)
    for place, _ in enumerate(COLUMNS):
        frames.words[row_offset(1) + place] = 100 + place
    assert [column[0] for column in frames.columns(1, 2).values()] == [100 + place for place in range(WIDTH)]
    assert list(frames.columns(0, 1)) == list(COLUMNS)


def test_no_rows_can_be_prepared(make_table: MakeTable) -> None:
    make_table(2).prepare(2, 0)
