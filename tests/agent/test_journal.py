"""A run's journal: numbered events in segments, readable while it grows, whole after a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench.agent import journal
from backbench.agent.journal import Journal, JournalReader, last_event


def read(folder: Path, from_sequence: int = 1) -> list[tuple[int, bytes]]:
    reader = JournalReader(folder, from_sequence)
    events: list[tuple[int, bytes]] = []
    while batch := reader.read():
        events += batch
    return events


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Twelve events in four segments of three."""
    with Journal(tmp_path / "run", segment_bytes=150) as made:
        for number in range(1, 13):
            made.append(bytes([number]) * 50)
    assert [path.name[-6:-4] for path in segments(tmp_path / "run")] == ["01", "04", "07", "10"]
    return tmp_path / "run"


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
        assert again.damage == ""
        assert again.append(b"after the crash") == 9
    assert read(tmp_path)[-1] == (9, b"after the crash")


def test_a_journal_that_ended_with_a_full_segment_goes_on_in_a_new_one(tmp_path: Path) -> None:
    for number in range(1, 12):
        with Journal(tmp_path, segment_bytes=200) as reopened:
            assert reopened.append(b"x" * 250) == number
    assert len(read(tmp_path)) == 11


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def duplicate_a_record(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:70] + data)


DAMAGES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "a flipped byte": (lambda folder: flip(segments(folder)[1], 95), 4, "event 5 is damaged"),
    "a flipped byte in a length": (lambda folder: flip(segments(folder)[1], 12), 3, "event 4 is damaged"),
    "a missing segment": (lambda folder: segments(folder)[1].unlink(), 3, "event 4 is missing"),
    "a missing first segment": (lambda folder: segments(folder)[0].unlink(), 0, "event 1 is missing"),
    "an empty segment": (lambda folder: segments(folder)[1].write_bytes(b""), 3, "event 4 is missing"),
    "a segment of zeros": (lambda folder: segments(folder)[2].write_bytes(bytes(5000)), 6, "event 7 is damaged"),
    "a shortened segment": (lambda folder: segments(folder)[1].write_bytes(b"x" * 9), 3, "event 4 is missing"),
    "a record twice": (lambda folder: duplicate_a_record(segments(folder)[1]), 4, "event 5 is damaged"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_lies_before_damage_is_read_and_kept_and_what_lies_behind_is_set_aside(written: Path, kind: str) -> None:
    strike, good, words = DAMAGES[kind]
    intact = read(written)
    strike(written)
    assert read(written) == intact[:good]
    behind = sum(path.stat().st_size for path in written.iterdir())
    with Journal(written, segment_bytes=150) as again:
        assert again.last_sequence == good
        assert again.damage == words
        assert again.append(b"after") == again.last_sequence
    assert read(written) == [*intact[:good], (good + 1, b"after")]
    assert sum(path.stat().st_size for path in written.iterdir()) >= behind
    with Journal(written) as once_more:
        assert once_more.damage == ""
        assert once_more.last_sequence == good + 1


def test_events_behind_damage_are_read_by_who_has_those_before(written: Path) -> None:
    flip(segments(written)[1], 95)
    assert [number for number, _ in read(written, 7)] == list(range(7, 13))
    assert [number for number, _ in read(written, 5)] == []


def test_files_that_are_no_segments_do_no_harm(written: Path) -> None:
    intact = read(written)
    (written / "events-abc.seg").write_bytes(b"garbage")
    (written / "events-1.seg").write_bytes(b"garbage")
    (written / "notes.txt").write_bytes(b"garbage")
    assert read(written) == intact
    (written / "events-000000000013.seg").mkdir()
    with Journal(written) as again:
        assert again.last_sequence == 12
    assert read(written) == intact


def test_an_event_that_is_not_accepted_ends_the_journal_before_it(written: Path) -> None:
    with Journal(written, accept=lambda payload: payload[0] != 8) as again:
        assert again.last_sequence == 7
        assert again.damage == "event 8 is damaged"
    assert [number for number, _ in read(written)] == list(range(1, 8))


def test_a_segment_that_ends_in_half_an_event_is_no_damage_when_the_next_one_goes_on(tmp_path: Path) -> None:
    with Journal(tmp_path) as made:
        made.append(b"one")
        made.begin_segment()
        made.append(b"two")
    torn = segments(tmp_path)[0]
    torn.write_bytes(torn.read_bytes() + b"BBBR half")
    assert read(tmp_path) == [(1, b"one"), (2, b"two")]
    with Journal(tmp_path) as again:
        assert (again.last_sequence, again.damage) == (2, "")


def test_a_reader_stops_at_the_number_it_is_told_and_goes_on_from_there(written: Path) -> None:
    reader = JournalReader(written)
    assert [number for number, _ in reader.read(5)] == [1, 2, 3, 4, 5]
    assert reader.read(5) == []
    assert reader.next_sequence == 6
    assert [number for number, _ in reader.read()] == list(range(6, 13))


def test_a_reader_that_is_far_behind_takes_a_little_at_a_time(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "BATCH_BYTES", 100)
    reader = JournalReader(written)
    sizes = []
    while batch := reader.read():
        sizes.append(len(batch))
    assert sizes == [2] * 6


def test_the_newest_event_is_found(written: Path, tmp_path: Path) -> None:
    assert last_event(written) == bytes([12]) * 50
    assert last_event(tmp_path / "nothing") is None


def test_a_copy_of_a_segment_under_another_number_does_not_come_between(written: Path) -> None:
    intact = read(written)
    (written / "events-000000000008.seg").write_bytes(segments(written)[2].read_bytes())
    assert read(written) == intact
    with Journal(written) as again:
        assert (again.last_sequence, again.damage) == (12, "")
    assert read(written) == intact


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=15),
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["cut", "flip", "insert", "remove"]), st.integers(0, 300)),
        max_size=4,
    ),
)
def test_no_damage_makes_a_reader_give_what_was_not_written_or_a_writer_refuse_to_go_on(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], blows: list[tuple[int, str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("blows")
    with Journal(folder, segment_bytes=80) as made:
        for payload in payloads:
            made.append(payload)
    for number, kind, place in blows:
        path = segments(folder)[number % len(segments(folder))] if segments(folder) else None
        if path is not None:
            strike(path, kind, place)
    seen = read(folder)
    assert seen == list(enumerate(payloads, start=1))[: len(seen)]
    with Journal(folder, segment_bytes=80) as again:
        assert again.last_sequence == len(seen)
        again.append(b"next")
    assert read(folder) == [*seen, (len(seen) + 1, b"next")]


def strike(path: Path, kind: str, place: int) -> None:
    data = path.read_bytes()
    at = min(place, len(data))
    if kind == "remove":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[:at])
    elif kind == "insert":
        path.write_bytes(data[:at] + b"BBBR" * 6 + data[at:])
    elif at < len(data):
        flip(path, at)
