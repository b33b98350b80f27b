from __future__ import annotations

import datetime
import re

import pytest

from backbench.domain.errors import InvalidArgument
from backbench.domain.security import Role
from backbench.wire import certificates as c
from backbench.wire import pairing as codes

KEY = c.new_key()
CODE = "ABCD-EFGH-IJKL-MNOP"


def test_codes_are_random_and_typed_in_any_way() -> None:
    assert len({codes.new_code() for _ in range(50)}) == 50
    assert re.fullmatch(r"([A-Z2-7]{4}-){3}[A-Z2-7]{4}", codes.new_code())
    for typed in ("abcd efgh ijkl mnop", "ABCDEFGHIJKLMNOP", " abcd-efgh-ijkl-mn0p\n", "A8CD-EFGH-1JKL-MNOP"):
        assert codes.normal_code(typed) == CODE


@pytest.mark.parametrize("typed", ["", "QRST", CODE + "A", "ABCD-EFGH-IJKL-MNO9", "ABCD-EFGH-IJKL-MNOÉ"])
def test_a_mistyped_code_is_refused_without_being_repeated(typed: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        codes.normal_code(typed)
    assert not typed or typed not in str(caught.value)


def test_both_sides_of_a_code_trust_what_the_other_signs() -> None:
    _, mine = codes.pairing_authority(CODE)
    _, theirs = codes.pairing_authority(CODE.lower().replace("-", ""))
    server, client = (
        codes.sign_pairing_server(CODE, c.new_key().public_key()),
        codes.sign_pairing_client(CODE, c.new_key().public_key()),
    )
    assert c.issued_by(server, theirs)
    assert c.issued_by(client, mine)
    assert c.holder_of(client)[1] is Role.PAIRING
    assert c.server_names(server) == (codes.pairing_name(CODE),)
    assert codes.pairing_id(mine) in codes.pairing_name(CODE)


def test_a_board_whose_clock_is_a_day_off_can_be_paired() -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    for signed in (
        codes.sign_pairing_server(CODE, KEY.public_key()),
        codes.sign_pairing_client(CODE, KEY.public_key()),
        codes.pairing_authority(CODE)[1],
    ):
        assert signed.not_valid_before_utc <= now - datetime.timedelta(days=1)
        assert signed.not_valid_after_utc >= now + datetime.timedelta(days=1)


def test_another_code_is_another_authority_and_another_name() -> None:
    other = "ABCD-EFGH-IJKL-MNOQ"
    assert not c.issued_by(codes.sign_pairing_server(CODE, KEY.public_key()), codes.pairing_authority(other)[1])
    assert codes.pairing_name(CODE) != codes.pairing_name(other)


def test_nothing_that_is_shown_holds_the_code() -> None:
    server = c.to_pem(codes.sign_pairing_server(CODE, KEY.public_key())) + codes.pairing_name(CODE).encode()
    assert not [part for part in CODE.split("-") if part.encode() in server.upper().replace(b"\n", b"")]
