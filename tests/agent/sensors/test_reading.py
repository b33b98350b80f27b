"""Text of files as numbers and names."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.trees import FAULTS, Content, Files

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.reading import any_positive, field, found, number, numbered, read_number, read_word, total


@pytest.mark.parametrize("said", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_no_number_never_becomes_one(said: Content) -> None:
    value = read_number(Files({"file": said}), "file")
    assert value == Unread(errno.errorcode[said] if isinstance(said, int) else "EILSEQ")


@given(st.binary(max_size=30))
def test_any_bytes_are_the_number_that_they_spell_or_unreadable(text: bytes) -> None:
    value = number(text)
    if not isinstance(value, Unread):
        assert value == int(text)


@given(st.integers(min_value=-(10**18) + 1, max_value=10**18 - 1), st.sampled_from([1, 1000, 1024]))
def test_a_number_is_scaled_or_does_not_fit_the_wire(value: int, times: int) -> None:
    scaled = value * times
    fits = -(2**63) <= scaled < 2**63
    assert number(b" %d\n" % value, times) == (scaled if fits else Unread("ERANGE"))


def test_a_field_is_found_by_its_whole_name_in_bytes_and_whole_or_not_at_all() -> None:
    text = b"SwapTotal: 1 kB\nTotal: 2 kB\nswitches:\t7\nWords: a b\nCut: 12"
    assert field(text, "SwapTotal") == 1024
    assert field(text, "Total") == 2048
    assert field(text, "switches") == 7
    assert [field(text, name) for name in ("Words", "Cut", "Free")] == [Unread("EILSEQ")] * 3
    assert field(Unread("EACCES"), "Total") == Unread("EACCES")


def test_a_name_has_no_character_that_a_channel_could_not_have() -> None:
    tree = Files({"a": "CPU-therm\n", "b": "Package id 0\n", "c": b"\0\n", "d": b"caf\xc3\xa9.x\n", "e": errno.EACCES})
    assert [read_word(tree, name) for name in "abcdef"] == ["CPU-therm", "Package_id_0", "", "caf_x", "", ""]


def test_a_sum_is_unreadable_if_a_part_is() -> None:
    assert total([1, 2, 3]) == 6
    assert total([1, Unread("EAGAIN"), 3]) == Unread("EAGAIN")
    assert total([2**62, 2**62]) == Unread("ERANGE")


def test_a_flag_hangs_on_an_unreadable_one_only_if_no_other_is_set() -> None:
    assert any_positive([0, 0]) == 0
    assert any_positive([0, Unread("EACCES"), 3]) == 1
    assert any_positive([0, Unread("EACCES"), Unread("EIO")]) == Unread("EACCES")
    assert any_positive([-1, 0]) == 0


def test_the_second_of_a_name_gets_a_number() -> None:
    assert numbered("fan", []) == "fan"
    assert numbered("fan", ["fan", "fan_2"]) == "fan_3"


def test_a_folder_that_cannot_be_listed_has_nothing_in_it() -> None:
    class Locked(Files):
        def glob(self, pattern: str) -> list[str]:
            raise PermissionError(errno.EACCES, "refused", pattern)

    assert found(Locked({}), "sys/*") == []
