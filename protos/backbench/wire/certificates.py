"""Certificates of a fleet.

A fleet is an authority (a P-256 key and its self-signed certificate) that the controller keeps. An agent's certificate
names its device id, a client's its holder and role.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from backbench.domain.errors import InvalidArgument
from backbench.domain.security import Role

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

DEVICE_LIFETIME = datetime.timedelta(days=90)
CLIENT_LIFETIME = datetime.timedelta(days=30)
AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
REVOCATIONS_LIFETIME = AUTHORITY_LIFETIME
"""A list stays in force until a newer one comes: a device that was off for long must not let everybody in."""
_SKEW = datetime.timedelta(days=1)
"""Certificates begin this long ago: boards without a clock battery start in the past."""
DOMAIN = "backbench.internal"
"""Server names below it are for certificates alone; no resolver knows them."""
_HIGHEST_NUMBER = 2**63 - 1
_ROLE = "urn:backbench:role:"


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """What tells one authority from another: the first 32 hex digits of the SHA-256 of its public key."""
    return hashlib.sha256(public_key_der(key)).hexdigest()[:32]


def fleet_id_of(authority: x509.Certificate) -> str:
    """A fleet's id: the first 32 hex digits of the SHA-256 of its authority's public key."""
    return key_id(authority.public_key())  # type: ignore[arg-type]


def device_name(device_id: str, fleet_id: str) -> str:
    """The server name by which a controller asks for one device of a fleet and no other."""
    return f"{device_id}.{fleet_id}.{DOMAIN}"


def any_device_name(fleet_id: str) -> str:
    """The server name of every device of a fleet, for the first contact with one that is not known yet."""
    return f"agent.{fleet_id}.{DOMAIN}"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM (PKCS 8, not encrypted): for files of mode 0600."""
    from cryptography.hazmat.primitives import serialization as s

    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())


def key_from_pem(data: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key. Raises InvalidArgument for anything that is no P-256 key in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise InvalidArgument("not a private key in PEM form without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidArgument("the private key is not of the curve P-256; make it with backbench")
    return key


def public_key_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as DER SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives import serialization as s

    return key.public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo)


def public_key_from_der(data: bytes) -> ec.EllipticCurvePublicKey:
    """A public key. Raises InvalidArgument for anything that is no P-256 key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_der_public_key(data)
    except ValueError as error:
        raise InvalidArgument("not a public key in DER form") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidArgument("the public key is not of the curve P-256")
    return key


def to_pem(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """A certificate or a list of revoked ones as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def certificate_from_pem(data: bytes) -> x509.Certificate:
    """The first certificate. Raises InvalidArgument for one of which any part that is read later cannot be read."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(data)
        # The library reads these only when they are asked for; better here than in the middle of a decision.
        _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.public_key()
    except _unreadable() as error:
        raise InvalidArgument("not a certificate in PEM form that can be read") from error
    return certificate


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it is a self-signed certificate of an authority on P-256, as `make_authority` makes them."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return False
    # With the name and the identifier of another fleet's it would be taken for that one in a handshake.
    own = identifier == x509.SubjectKeyIdentifier.from_public_key(key)
    return constraints.ca and own and issued_by(certificate, certificate)


def make_authority(
    key: ec.EllipticCurvePrivateKey, name: str, now: datetime.datetime | None = None
) -> x509.Certificate:
    """A fleet's self-signed certificate, which signs certificates and nothing below them."""
    from cryptography import x509

    builder = _builder(name, name, key.public_key(), AUTHORITY_LIFETIME, now)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    # An agent may trust several authorities of one name; their keys tell them apart.
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    return _signed(builder, key)


def sign_device(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    device: ec.EllipticCurvePublicKey,
    device_id: str,
    *,
    lifetime: datetime.timedelta = DEVICE_LIFETIME,
    now: datetime.datetime | None = None,
) -> x509.Certificate:
    """An agent's certificate: a server of its own name and of the fleet's general one."""
    fleet_id = fleet_id_of(authority)
    names = (device_name(device_id, fleet_id), any_device_name(fleet_id))
    return sign_server(key, authority, device, device_id, names, lifetime, now)


def sign_client(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    client: ec.EllipticCurvePublicKey,
    name: str,
    role: Role,
    *,
    lifetime: datetime.timedelta = CLIENT_LIFETIME,
    now: datetime.datetime | None = None,
) -> x509.Certificate:
    """A caller's certificate, which names its holder and role."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    builder = _leaf(authority, client, name, lifetime, now)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    uri = x509.UniformResourceIdentifier(_ROLE + role.value)
    return _signed(builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False), key)


def sign_server(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    device: ec.EllipticCurvePublicKey,
    name: str,
    names: Iterable[str],
    lifetime: datetime.timedelta,
    now: datetime.datetime | None = None,
) -> x509.Certificate:
    """A certificate of a server of these names."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    builder = _leaf(authority, device, name, lifetime, now)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
    return _signed(builder.add_extension(alternatives, critical=False), key)


def make_revocations(
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    serials: Iterable[int],
    number: int,
    now: datetime.datetime | None = None,
) -> x509.CertificateRevocationList:
    """The list of revoked serial numbers; `number` grows with every list."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = now or _now()
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now - _SKEW).next_update(now + REVOCATIONS_LIFETIME)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for serial in sorted(set(serials)):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(key, hashes.SHA256())


def read_revocations(data: bytes, authority: x509.Certificate) -> tuple[int, frozenset[int]]:
    """The number and the serial numbers of a list. Raises InvalidArgument when that authority did not sign it."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_crl(data)
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        signed = found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
        revoked = frozenset(each.serial_number for each in found) if signed else frozenset[int]()
    except _unreadable(x509.ExtensionNotFound) as error:
        raise InvalidArgument("not a numbered list of revoked certificates in PEM form that can be read") from error
    if not signed:
        raise InvalidArgument("the list of revoked certificates is not signed by the fleet's authority")
    if not 0 <= number <= _HIGHEST_NUMBER:
        raise InvalidArgument(f"the list of revoked certificates has a number beyond 0 to {_HIGHEST_NUMBER}")
    return number, revoked


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority signed the certificate."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except _unreadable(InvalidSignature):
        return False
    return True


def holder_of(certificate: x509.Certificate) -> tuple[str, Role | None]:
    """The name and the role in a caller's certificate; None for one that names none, as an agent's own."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    roles = {_ROLE + role.value: role for role in Role}
    found = [roles[uri] for uri in _alternatives(certificate, x509.UniformResourceIdentifier) if uri in roles]
    return str(names[0].value) if names else "", found[0] if found else None


def server_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The server names in an agent's certificate."""
    from cryptography import x509

    return _alternatives(certificate, x509.DNSName)


def _alternatives(
    certificate: x509.Certificate, kind: type[x509.DNSName | x509.UniformResourceIdentifier]
) -> tuple[str, ...]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(found.get_values_for_type(kind))


def _unreadable(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What the library raises over bytes that are no certificate, or one of a kind that it does not know, and more."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    kinds = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm)
    return (ValueError, TypeError, *kinds, *more)


def _leaf(
    authority: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    name: str,
    lifetime: datetime.timedelta,
    now: datetime.datetime | None,
) -> x509.CertificateBuilder:
    from cryptography import x509

    builder = _builder(name, "", key, lifetime, now).issuer_name(authority.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]
    builder = builder.add_extension(issuer, critical=False)
    return builder.add_extension(_usage(signs=False), critical=True)


def _builder(
    name: str,
    issuer: str,
    key: ec.EllipticCurvePublicKey,
    lifetime: datetime.timedelta,
    now: datetime.datetime | None,
) -> x509.CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])

    now = now or _now()
    builder = x509.CertificateBuilder().subject_name(named(name)).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _SKEW).not_valid_after(now + lifetime)
    return builder.issuer_name(named(issuer)) if issuer else builder


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
