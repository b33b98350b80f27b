from __future__ import annotations

import base64
import datetime
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from backbench.domain.errors import InvalidArgument
from backbench.domain.security import ISSUED_ROLES, Role
from backbench.wire import certificates as c

KEY = c.new_key()
AUTHORITY = c.make_authority(KEY, "fleet")
DEVICE_ID = "0123456789abcdef" * 2


def a_device(key: ec.EllipticCurvePrivateKey | None = None) -> x509.Certificate:
    return c.sign_device(KEY, AUTHORITY, (key or c.new_key()).public_key(), DEVICE_ID)


def test_a_fleets_id_is_that_of_its_key_whatever_its_certificate_says() -> None:
    again = c.make_authority(KEY, "another name")
    assert c.fleet_id_of(again) == c.fleet_id_of(AUTHORITY)
    assert re.fullmatch(r"[0-9a-f]{32}", c.fleet_id_of(AUTHORITY))
    assert c.fleet_id_of(c.make_authority(c.new_key(), "fleet")) != c.fleet_id_of(AUTHORITY)


def test_a_device_is_a_server_by_its_own_name_and_the_fleets() -> None:
    device, fleet_id = a_device(), c.fleet_id_of(AUTHORITY)
    assert c.server_names(device) == (c.device_name(DEVICE_ID, fleet_id), c.any_device_name(fleet_id))
    assert c.holder_of(device) == (DEVICE_ID, None)
    assert c.issued_by(device, AUTHORITY)
    assert not c.is_authority(device)


@pytest.mark.parametrize("role", ISSUED_ROLES)
def test_a_client_is_known_by_name_and_role(role: Role) -> None:
    client = c.sign_client(KEY, AUTHORITY, c.new_key().public_key(), "ann", role)
    assert c.holder_of(client) == ("ann", role)
    assert c.server_names(client) == ()
    assert c.issued_by(client, AUTHORITY)


def test_certificates_live_as_long_as_they_are_to() -> None:
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)
    key = c.new_key().public_key()
    device = c.sign_device(KEY, AUTHORITY, key, DEVICE_ID, now=now)
    client = c.sign_client(KEY, AUTHORITY, key, "ann", Role.VIEWER, now=now)
    short = c.sign_client(KEY, AUTHORITY, key, "ann", Role.VIEWER, now=now, lifetime=datetime.timedelta(minutes=1))
    assert device.not_valid_after_utc - now == datetime.timedelta(days=90)
    assert client.not_valid_after_utc - now == datetime.timedelta(days=30)
    assert short.not_valid_after_utc - now == datetime.timedelta(minutes=1)
    assert {each.not_valid_before_utc for each in (device, client, short)} == {now - datetime.timedelta(days=1)}


def test_another_authority_of_the_same_name_signed_nothing_of_this_one() -> None:
    impostor = c.make_authority(c.new_key(), "fleet")
    assert not c.issued_by(a_device(), impostor)
    assert not c.issued_by(AUTHORITY, impostor)


def test_an_authority_signs_itself_and_is_marked_as_one() -> None:
    assert c.is_authority(AUTHORITY)
    device = c.new_key()
    assert not c.is_authority(c.sign_device(device, c.make_authority(device, "x"), device.public_key(), "x"))


def test_an_authority_of_another_kind_of_key_is_none() -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fleet")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    signed = builder.add_extension(x509.BasicConstraints(True, 0), True).sign(key, hashes.SHA256())
    assert not c.is_authority(signed)


@pytest.mark.parametrize("left_out", [False, True])
def test_an_authority_that_copies_the_name_and_the_identifier_of_another_is_none(left_out: bool) -> None:
    key = c.new_key()
    name, begin, end = AUTHORITY.subject, AUTHORITY.not_valid_before_utc, AUTHORITY.not_valid_after_utc
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, end)
    for extension in AUTHORITY.extensions:
        if not (left_out and isinstance(extension.value, x509.SubjectKeyIdentifier)):
            builder = builder.add_extension(extension.value, extension.critical)
    assert not c.is_authority(builder.sign(key, hashes.SHA256()))


@pytest.mark.parametrize("number", [2**63, 2**150])
def test_a_list_with_a_number_that_no_message_can_carry_is_refused(number: int) -> None:
    with pytest.raises(InvalidArgument, match="number beyond"):
        c.read_revocations(c.to_pem(c.make_revocations(KEY, AUTHORITY, {1}, number)), AUTHORITY)


def test_revocations_are_read_back_with_their_number() -> None:
    serials = frozenset(a_device().serial_number for _ in range(3))
    pem = c.to_pem(c.make_revocations(KEY, AUTHORITY, serials, 7))
    assert c.read_revocations(pem, AUTHORITY) == (7, serials)
    assert c.read_revocations(c.to_pem(c.make_revocations(KEY, AUTHORITY, (), 0)), AUTHORITY) == (0, frozenset())


def test_revocations_of_another_authority_are_refused() -> None:
    pem = c.to_pem(c.make_revocations(KEY, AUTHORITY, {1}, 1))
    with pytest.raises(InvalidArgument, match="not signed by the fleet's authority"):
        c.read_revocations(pem, c.make_authority(c.new_key(), "fleet"))


def test_revocations_without_a_number_are_refused() -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateRevocationListBuilder(AUTHORITY.subject, now, now + datetime.timedelta(days=1))
    with pytest.raises(InvalidArgument, match="numbered"):
        c.read_revocations(c.to_pem(builder.sign(KEY, hashes.SHA256())), AUTHORITY)


def test_keys_are_read_back_and_others_refused() -> None:
    key = c.new_key()
    assert c.key_from_pem(c.key_to_pem(key)).private_numbers() == key.private_numbers()
    public = c.public_key_der(key.public_key())
    assert c.public_key_from_der(public).public_numbers() == key.public_key().public_numbers()
    other = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(InvalidArgument, match="P-256"):
        c.key_from_pem(c.key_to_pem(other))
    with pytest.raises(InvalidArgument, match="P-256"):
        c.public_key_from_der(c.public_key_der(other.public_key()))
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    with pytest.raises(InvalidArgument, match="without a password"):
        c.key_from_pem(secret)


@given(st.one_of(st.binary(max_size=200), st.builds(lambda at: c.to_pem(AUTHORITY)[:at], st.integers(0, 500))))
def test_bytes_that_are_no_certificate_are_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        c.certificate_from_pem(data)
    with pytest.raises(InvalidArgument):
        c.read_revocations(data, AUTHORITY)
    with pytest.raises(InvalidArgument):
        c.key_from_pem(data)
    with pytest.raises(InvalidArgument):
        c.public_key_from_der(data)


@given(st.data())
def test_a_certificate_with_a_damaged_byte_is_refused_or_not_signed_any_more(data: st.DataObject) -> None:
    der = bytearray(AUTHORITY.public_bytes(serialization.Encoding.DER))
    at = data.draw(st.integers(0, len(der) - 1))
    der[at] ^= data.draw(st.integers(1, 255))
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(der)) + b"-----END CERTIFICATE-----\n"
    try:
        found = c.certificate_from_pem(pem)
    except InvalidArgument:
        return
    assert not c.issued_by(found, AUTHORITY)
    assert not c.is_authority(found)
