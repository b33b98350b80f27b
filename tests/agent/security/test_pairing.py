from __future__ import annotations

import time
from pathlib import Path

import pytest

from backbench.agent.security.fleets import DeviceKey
from backbench.agent.security.pairing import PairingCodes
from backbench.domain.errors import InvalidArgument, PairingUnavailable, PermissionDenied
from backbench.wire import pairing as wire


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def codes(tmp_path: Path, clock: Clock) -> PairingCodes:
    return PairingCodes(DeviceKey(tmp_path), clock)


def id_of(code: str) -> str:
    return wire.pairing_id(wire.pairing_authority(code)[1])


def test_a_code_is_good_until_its_end(codes: PairingCodes, clock: Clock) -> None:
    code, expires_unix_ns = codes.open(60)
    assert 55 < (expires_unix_ns - time.time_ns()) / 1e9 <= 60
    clock.now_s += 59
    codes.check(id_of(code))
    clock.now_s += 2
    with pytest.raises(PermissionDenied, match="has expired; make a new one on the device: backbench-agent pair"):
        codes.check(id_of(code))


def test_a_code_is_good_once(codes: PairingCodes) -> None:
    code, _ = codes.open(0)
    codes.use(id_of(code))
    with pytest.raises(PermissionDenied, match="was used already; make a new one"):
        codes.check(id_of(code))


def test_a_code_that_is_good_no_more_is_known_for_an_hour(codes: PairingCodes, clock: Clock) -> None:
    used, _ = codes.open(0)
    codes.use(id_of(used))
    late, _ = codes.open(60)
    clock.now_s += 3599
    assert [known.code_id for known in codes.known()] == [id_of(used), id_of(late)]
    clock.now_s += 2
    assert [known.code_id for known in codes.known()] == [id_of(late)]
    clock.now_s += 60
    assert codes.known() == ()


def test_the_text_of_a_code_is_not_kept(codes: PairingCodes) -> None:
    code, _ = codes.open(0)
    assert code not in repr(codes.known())
    assert code.replace("-", "") not in repr(codes.known())


def test_no_more_than_four_are_open_and_one_that_ends_makes_room(codes: PairingCodes, clock: Clock) -> None:
    first, *_ = [codes.open(600)[0] for _ in range(4)]
    with pytest.raises(PairingUnavailable, match="4 pairing codes are open already; use one, or wait 10 minutes"):
        codes.open(60)
    codes.use(id_of(first))
    codes.open(60)
    clock.now_s += 61
    codes.open(60)


@pytest.mark.parametrize("ttl_s", [-1, 59, 3601, 2**31 - 1])
def test_a_code_lives_for_a_minute_to_an_hour(codes: PairingCodes, ttl_s: int) -> None:
    with pytest.raises(InvalidArgument, match="1 to 60 minutes"):
        codes.open(ttl_s)


def test_the_codes_that_are_remembered_are_bounded(codes: PairingCodes) -> None:
    for _ in range(40):
        code, _ = codes.open(0)
        codes.use(id_of(code))
    assert len(codes.known()) == 32
