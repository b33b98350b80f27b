from __future__ import annotations

import errno
import resource
import stat
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbench.domain.errors import JournalCorrupt, MessageTooLarge
from backbench.wire import records
from backbench.wire.records import Ending, RecordWriter, read_records

PAYLOADS = [b"one", b"", b"\x00" * 40, b"BBBR" * 3, b"five"]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "events.seg"
    with RecordWriter(path) as writer:
        for number, payload in enumerate(PAYLOADS, start=1):
            writer.append(number, payload)
    return path


def payloads(path: Path) -> list[bytes]:
    return [payload for _, payload, _ in read_records(path)]


def ending(path: Path, expected: int | None = None) -> Ending:
    reading = read_records(path, expected=expected)
    while True:
        try:
            next(reading)
        except StopIteration as stopped:
            assert isinstance(stopped.value, Ending)
            return stopped.value


def ends(path: Path) -> list[int]:
    return [offset for _, _, offset in read_records(path)]


def test_records_come_back_in_order_with_their_numbers(journal: Path) -> None:
    assert [(number, payload) for number, payload, _ in read_records(journal)] == list(enumerate(PAYLOADS, start=1))


def test_reading_can_start_at_a_number(journal: Path) -> None:
    assert [number for number, _, _ in read_records(journal, from_sequence=3)] == [3, 4, 5]


def test_reading_goes_on_at_every_offset_it_gave(journal: Path) -> None:
    for done, offset in enumerate(ends(journal), start=1):
        assert [payload for _, payload, _ in read_records(journal, offset=offset)] == PAYLOADS[done:]


def test_a_missing_file_holds_no_records(tmp_path: Path) -> None:
    assert payloads(tmp_path / "nothing") == []


def test_a_file_cut_at_any_byte_keeps_its_whole_records_and_the_writer_goes_on(journal: Path, tmp_path: Path) -> None:
    whole, borders = journal.read_bytes(), ends(journal)
    for cut in range(len(whole) + 1):
        path = tmp_path / f"cut-{cut}"
        path.write_bytes(whole[:cut])
        survivors = sum(border <= cut for border in borders)
        assert payloads(path) == PAYLOADS[:survivors]
        with RecordWriter(path) as writer:
            assert writer.last_sequence == survivors
            writer.append(survivors + 1, b"next")
            assert writer.size_bytes == path.stat().st_size
        assert payloads(path) == [*PAYLOADS[:survivors], b"next"]


def test_any_flipped_bit_is_noticed_and_what_lies_before_it_survives(journal: Path) -> None:
    whole, borders = journal.read_bytes(), ends(journal)
    for place in range(len(whole)):
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            journal.write_bytes(damaged)
            assert payloads(journal) == PAYLOADS[: sum(border <= place for border in borders)]


def test_a_record_out_of_its_place_ends_the_reading(journal: Path) -> None:
    whole, borders = journal.read_bytes(), ends(journal)
    journal.write_bytes(whole[: borders[0]] + whole[borders[1] :])
    assert payloads(journal) == PAYLOADS[:1]


@pytest.mark.parametrize("sequence", [-1, 0, 4, 5, 7])
def test_a_gap_or_a_repetition_is_refused_and_leaves_no_trace(journal: Path, sequence: int) -> None:
    before = journal.read_bytes()
    with RecordWriter(journal) as writer, pytest.raises(JournalCorrupt, match=f"record {sequence} does not follow 5"):
        writer.append(sequence, b"x")
    assert journal.read_bytes() == before


def test_a_segment_starts_after_the_one_before_it(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "second.seg", after=41) as writer:
        writer.append(42, b"x")
    assert [number for number, _, _ in read_records(tmp_path / "second.seg")] == [42]


def test_a_payload_that_the_reader_would_refuse_is_not_written(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 100)
    with RecordWriter(journal) as writer:
        with pytest.raises(MessageTooLarge):
            writer.append(6, b"x" * 101)
        writer.append(6, b"x" * 100)
    assert len(payloads(journal)) == 6


def test_a_record_that_the_disk_does_not_take_leaves_no_trace(journal: Path) -> None:
    before = journal.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RecordWriter(journal) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                writer.append(6, b"x" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG
        assert journal.read_bytes() == before
        writer.append(6, b"six")
    assert payloads(journal) == [*PAYLOADS, b"six"]


def test_a_journal_is_for_its_owner_only(journal: Path) -> None:
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600


def test_closing_twice_is_harmless(journal: Path) -> None:
    writer = RecordWriter(journal)
    writer.close()
    writer.close()


def test_a_record_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "golden.seg"
    with RecordWriter(path) as writer:
        writer.append(1, b"backbench")
    head = bytes.fromhex("42424252010000000000000009000000")
    checksum = zlib.crc32(head[4:] + b"backbench").to_bytes(4, "little")
    assert path.read_bytes() == head + checksum + b"backbench"
    assert path.read_bytes().hex() == "4242425201000000000000000900000023f8084f6261636b62656e6368"


def test_the_reader_says_what_stopped_it(journal: Path) -> None:
    whole = journal.read_bytes()
    assert ending(journal) is Ending.WHOLE
    assert ending(journal.with_name("nothing")) is Ending.WHOLE
    assert ending(journal, expected=2) is Ending.DAMAGED
    journal.write_bytes(whole[:-1])
    assert ending(journal) is Ending.TORN
    journal.write_bytes(whole + bytes(40))
    assert ending(journal) is Ending.DAMAGED
    journal.write_bytes(whole + whole[: ends(journal)[0]])
    assert ending(journal) is Ending.DAMAGED


def test_a_file_that_does_not_begin_where_it_should_is_begun_anew(journal: Path) -> None:
    with RecordWriter(journal, after=7) as writer:
        assert writer.last_sequence == 7
        writer.append(8, b"x")
    assert [number for number, _, _ in read_records(journal)] == [8]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=30), st.integers(0, 30)), max_size=4),
)
def test_whatever_happens_to_a_file_what_is_read_of_it_was_written_and_what_lies_before_the_damage_is_read(
    tmp_path_factory: pytest.TempPathFactory, written: list[bytes], blows: list[tuple[int, bytes, int]]
) -> None:
    path = tmp_path_factory.mktemp("blows") / "events.seg"
    with RecordWriter(path) as writer:
        for number, payload in enumerate(written, start=1):
            writer.append(number, payload)
    borders, data = ends(path), path.read_bytes()
    untouched = len(data)
    for place, put, over in blows:
        at = min(place, len(data))
        untouched = min(untouched, at)
        data = data[:at] + put + data[at + over :]
    path.write_bytes(data)
    read = [(number, payload) for number, payload, _ in read_records(path)]
    assert read == list(enumerate(written, start=1))[: len(read)]
    assert len(read) >= sum(border <= untouched for border in borders)
    with RecordWriter(path) as writer:
        writer.append(len(read) + 1, b"next")
    assert payloads(path) == [*(payload for _, payload in read), b"next"]
