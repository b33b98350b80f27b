"""A run's journal: numbered events in segments, readable while it grows, whole after a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbench.agent.journal import Journal, JournalReader


def read(folder: Path, from_sequence: int = 1) -> list[tuple[int, bytes]]:
    return list(JournalReader(folder, from_sequence).read())


def test_events_are_read_back_in_order_across_segments(tmp_path: Path) -> None:
    payloads = [bytes([number]) * 50 for number in range(20)]
    with Journal(tmp_path, segment_bytes=200) as written:
        assert [written.append(payload) for payload in payloads] == list(range(1, 21))
    assert len(list(tmp_path.glob("*.seg"))) > 3
    assert read(tmp_path) == list(enumerate(payloads, start=1))


@pytest.mark.parametrize("first", [1, 2, 7, 20, 21])
def test_reading_starts_at_any_number(tmp_path: Path, first: int) -> None:
    with Journal(tmp_path, segment_bytes=200) as written:
        for number in range(20):
            written.append(bytes([number]) * 50)
    assert [sequence for sequence, _ in read(tmp_path, first)] == list(range(first, 21))


def test_a_reader_goes_on_with_what_has_come_since(tmp_path: Path) -> None:
    reader, seen = JournalReader(tmp_path), []
    with Journal(tmp_path, segment_bytes=200) as written:
        for number in range(30):
            written.append(bytes([number]) * 30)
            if number % 3 == 0:
                seen += [sequence for sequence, _ in reader.read()]
    seen += [sequence for sequence, _ in reader.read()]
    assert seen == list(range(1, 31))


def test_a_torn_event_is_cut_off_and_the_journal_goes_on(tmp_path: Path) -> None:
    with Journal(tmp_path, segment_bytes=200) as first:
        for number in range(9):
            first.append(bytes([number]) * 50)
    newest = max(tmp_path.glob("*.seg"))
    newest.write_bytes(newest.read_bytes()[:-7])
    with Journal(tmp_path) as again:
        assert again.last_sequence == 8
        assert again.append(b"after the crash") == 9
    assert read(tmp_path)[-1] == (9, b"after the crash")


def test_a_journal_that_ended_with_a_full_segment_goes_on_in_a_new_one(tmp_path: Path) -> None:
    for number in range(1, 12):
        with Journal(tmp_path, segment_bytes=200) as reopened:
            assert reopened.append(b"x" * 250) == number
    assert len(read(tmp_path)) == 11
