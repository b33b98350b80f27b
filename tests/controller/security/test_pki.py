"""Keys and certificates in a real folder."""

from __future__ import annotations

import datetime
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest

from backbench.controller.security import Authority, Kind, Pki, check_holder
from backbench.domain.errors import InvalidArgument, StoreUnusable, Unauthenticated
from backbench.domain.security import LOCAL_CALLER, AgentSecurity, Role
from backbench.wire import certificates as wire

DAY = datetime.timedelta(days=1)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def agent(device_id: str = "d1d1d1d1") -> AgentSecurity:
    key = wire.public_key_der(wire.new_key().public_key())
    return AgentSecurity(device_id, key, (), LOCAL_CALLER)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_nothing_is_made_by_looking(pki: Pki) -> None:
    assert (pki.authority(), pki.identity()) == (None, None)
    assert not pki.path.exists()
    with pytest.raises(InvalidArgument, match="make it: backbench pki init"):
        pki.required_authority()


def test_a_fleet_is_made_once_and_its_keeper_is_its_admin(pki: Pki) -> None:
    authority = pki.init("the lab")
    identity = pki.identity()
    assert identity is not None
    assert (identity.role, identity.fleet_id, identity.revoked) == (Role.ADMIN, authority.fleet_id, False)
    assert pki.identity() == identity
    assert authority.name == "the lab"
    assert pki.authority_or_new().fleet_id == authority.fleet_id
    with pytest.raises(InvalidArgument, match="holds keys already"):
        pki.init()
    assert [(each.kind, each.name, each.role) for each in authority.issued()] == [
        (Kind.CLIENT, identity.name, Role.ADMIN)
    ]


def test_keys_are_for_their_owner_alone_and_leave_nothing_beside(pki: Pki) -> None:
    pki.init()
    assert stat.S_IMODE(pki.path.stat().st_mode) == 0o700
    assert modes(pki.path) == {0o600}
    assert {path.name for path in pki.path.iterdir()} == {
        "authority.key", "authority.pem", "client.key", "client.pem", "issued.json", "lock", "revocations.pem",
    }  # fmt: skip
    assert "PRIVATE" not in repr(pki.identity())


def test_keys_that_a_killed_process_left_half_written_are_removed_by_the_next(pki: Pki) -> None:
    pki.init()
    (pki.path / ".client.key.0a1b2c3d.part").write_bytes(b"-----BEGIN PRIVATE KEY-----")
    pki.renew_identity()
    assert not list(pki.path.glob(".*"))


def test_an_identity_is_renewed_in_the_last_third_of_its_time_and_not_before(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki.init()
    first = pki.identity()
    assert first is not None
    now = first.not_after_unix_s - 30 * 86400
    monkeypatch.setattr("time.time", lambda: now + 19 * 86400)
    assert pki.identity() == first
    monkeypatch.setattr("time.time", lambda: now + 21 * 86400)
    second = pki.identity()
    assert second is not None
    assert second.serial != first.serial
    assert second.key_pem != first.key_pem


def test_a_damaged_identity_beside_the_authority_is_made_anew(pki: Pki) -> None:
    pki.init()
    first = pki.identity()
    (pki.path / "client.key").write_bytes(wire.key_to_pem(wire.new_key()))
    second = pki.identity()
    assert second is not None
    assert second != first
    (pki.path / "client.pem").unlink()
    assert pki.identity() not in (None, first, second)


@pytest.mark.parametrize("name", ["authority.key", "authority.pem", "revocations.pem", "issued.json"])
def test_a_damaged_authority_is_named_with_the_remedy(pki: Pki, name: str) -> None:
    pki.init()
    (pki.path / name).write_bytes(b"nonsense")
    with pytest.raises(StoreUnusable, match=r"damaged.*a copy"):
        _ = (pki.required_authority().issued(), pki.required_authority().revoked())


def test_a_device_gets_a_certificate_of_its_own_name_and_the_general_one(pki: Pki) -> None:
    authority = pki.init()
    pem, end = authority.sign_device(agent(), "pi5")
    names = wire.server_names(wire.certificate_from_pem(pem))
    assert names == (wire.device_name("d1d1d1d1", authority.fleet_id), wire.any_device_name(authority.fleet_id))
    (issued,) = [each for each in authority.issued() if each.kind is Kind.DEVICE]
    assert (issued.name, issued.not_after_unix_s, issued.device_id, issued.role) == ("pi5", end, "d1d1d1d1", None)
    with pytest.raises(InvalidArgument):
        authority.sign_device(AgentSecurity("d2d2d2d2", b"no key", (), LOCAL_CALLER), "pi6")


def test_what_is_issued_is_a_whole_identity_that_another_controller_takes(pki: Pki, tmp_path: Path) -> None:
    pki.init()
    file, other = tmp_path / "ana.pem", Pki(tmp_path / "other")
    issued = pki.issue("ana@laptop", Role.VIEWER, DAY, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert other.take(file) == issued == other.identity()
    assert (issued.name, issued.role) == ("ana@laptop", Role.VIEWER)
    assert modes(other.path) == {0o600}
    assert other.authority() is None
    with pytest.raises(InvalidArgument, match="was imported: only the controller that issued it can pair"):
        other.authority_or_new()
    with pytest.raises(InvalidArgument, match="exists and stays as it is"):
        pki.issue("ana@laptop", Role.VIEWER, DAY, file)
    with pytest.raises(InvalidArgument, match="cannot be a name"):
        pki.issue("ana\nlaptop", Role.VIEWER, DAY, tmp_path / "new.pem")
    assert not (tmp_path / "new.pem").exists()


def test_a_newer_identity_of_the_same_fleet_replaces_an_imported_one_and_nothing_else_does(
    pki: Pki, tmp_path: Path
) -> None:
    pki.init()
    other, strange = Pki(tmp_path / "other"), Pki(tmp_path / "strange")
    strange.init()
    for name, source in (("one", pki), ("two", pki), ("three", strange)):
        source.issue(name, Role.OPERATOR, DAY, tmp_path / name)
    other.take(tmp_path / "one")
    assert other.take(tmp_path / "two").name == "two"
    with pytest.raises(InvalidArgument, match="belongs to another fleet"):
        other.take(tmp_path / "three")
    with pytest.raises(InvalidArgument, match="holds a fleet's authority"):
        strange.take(tmp_path / "one")


def test_an_expired_identity_that_cannot_be_renewed_here_says_who_can(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki.init()
    other = Pki(tmp_path / "other")
    taken = pki.issue("ana", Role.VIEWER, DAY, tmp_path / "ana.pem")
    other.take(tmp_path / "ana.pem")
    monkeypatch.setattr("time.time", lambda: taken.not_after_unix_s + 1)
    with pytest.raises(Unauthenticated, match=r"expired.*backbench pki issue ana.*backbench pki import"):
        other.identity()
    with pytest.raises(InvalidArgument, match="expired; ask for a new one"):
        other.take(tmp_path / "ana.pem")


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _other_key(data: bytes) -> bytes:
    return wire.key_to_pem(wire.new_key()) + data[data.index(b"-----BEGIN CERT") :]


def _other_authority(data: bytes) -> bytes:
    key = wire.new_key()
    authority = wire.make_authority(key, "other")
    crl = wire.make_revocations(key, authority, (), 1)
    end = data.index(b"-----END CERTIFICATE-----\n") + len(b"-----END CERTIFICATE-----\n")
    return data[:end] + wire.to_pem(authority) + wire.to_pem(crl)


@pytest.mark.parametrize("change", [_cut, _other_key, _other_authority, lambda _: b"", lambda _: b"\xff" * 100])
def test_a_file_that_is_no_identity_is_refused_and_changes_nothing(pki: Pki, tmp_path: Path, change: object) -> None:
    pki.init()
    file, other = tmp_path / "ana.pem", Pki(tmp_path / "other")
    pki.issue("ana", Role.VIEWER, DAY, file)
    assert callable(change)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InvalidArgument, match=str(file)):
        other.take(file)
    assert other.identity() is None


def test_certificates_are_taken_back_by_name_by_serial_number_and_by_a_beginning_of_it(
    pki: Pki, tmp_path: Path
) -> None:
    authority = pki.init()
    ana = [pki.issue("ana", Role.VIEWER, DAY, tmp_path / f"ana{n}") for n in range(2)]
    ben = pki.issue("ben", Role.VIEWER, DAY, tmp_path / "ben")
    first = authority.revoke(authority.find("ana"))
    second = authority.revoke(authority.find(ben.serial[:12].upper()))
    number, serials = authority.revoked()
    assert number == second > first > 1
    assert serials == {int(each.serial, 16) for each in (*ana, ben)}
    for reference in ("ana", ben.serial):
        with pytest.raises(InvalidArgument, match="valid any more"):
            authority.find(reference)
    for reference in ("nobody", ben.serial[:4], ""):
        with pytest.raises(InvalidArgument, match="see backbench pki list"):
            authority.find(reference)


def test_the_list_of_a_folder_that_was_put_back_from_an_old_copy_is_newer_than_all_before(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = pki.init()
    for name in ("ana", "ben", "cem"):
        pki.issue(name, Role.VIEWER, DAY, tmp_path / name)
    shutil.copytree(pki.path, tmp_path / "copy")
    known_to_devices = [authority.revoke(authority.find(name)) for name in ("ana", "ben")]
    shutil.rmtree(pki.path)
    shutil.copytree(tmp_path / "copy", pki.path)
    later = time.time() + 60
    monkeypatch.setattr("time.time", lambda: later)
    assert authority.revoke(authority.find("cem")) > max(known_to_devices)


@pytest.mark.parametrize("device_id", ["*", "agent", "", "d1d1d1d1.another", "D1D1D1D1", "d1d1d1d1\n"])
def test_no_certificate_is_made_for_an_id_that_would_be_a_name_of_others(pki: Pki, device_id: str) -> None:
    authority = pki.init()
    with pytest.raises(InvalidArgument, match="odd id"):
        authority.sign_device(agent(device_id), "pi5")
    assert not [each for each in authority.issued() if each.kind is Kind.DEVICE]


def test_a_name_of_a_client_and_a_device_is_not_guessed(pki: Pki, tmp_path: Path) -> None:
    authority = pki.init()
    pki.issue("pi5", Role.VIEWER, DAY, tmp_path / "pi5")
    authority.sign_device(agent(), "pi5")
    with pytest.raises(InvalidArgument, match="a client and a device"):
        authority.find("pi5")


def test_a_device_whose_newest_certificate_is_revoked_is_barred_until_it_is_paired_again(pki: Pki) -> None:
    authority = pki.init()
    authority.sign_device(agent(), "pi5")
    assert not authority.barred("d1d1d1d1")
    authority.revoke(authority.find("pi5"))
    assert authority.barred("d1d1d1d1")
    assert not authority.barred("d2d2d2d2")
    authority.sign_device(agent(), "pi5")
    assert not authority.barred("d1d1d1d1")


def test_a_controller_that_revokes_its_own_certificate_gets_another_one(pki: Pki) -> None:
    authority = pki.init()
    first = pki.identity()
    assert first is not None
    authority.revoke(authority.find(first.serial))
    second = pki.identity()
    assert second is not None
    assert second.serial != first.serial
    assert second.revocation_number > first.revocation_number


def test_what_many_do_at_once_is_all_remembered(pki: Pki) -> None:
    pki.init()
    threads = [threading.Thread(target=_use, args=(pki.path.parent, number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    authority = pki.required_authority()
    names = {each.name for each in authority.issued()}
    assert {f"pi{number}" for number in range(8)} <= names
    assert len(authority.revoked()[1]) == 8


def _use(root: Path, number: int) -> None:
    authority: Authority = Pki(root).required_authority()
    authority.sign_device(agent(f"{number:08x}"), f"pi{number}")
    authority.revoke(authority.find(f"pi{number}"))


def test_names_for_certificates_are_plain_words() -> None:
    for name in ("ana", "ana@laptop-2.local"):
        check_holder(name)
    for name in ("", "-ana", "a b", "é", "a" * 65):
        with pytest.raises(InvalidArgument):
            check_holder(name)
