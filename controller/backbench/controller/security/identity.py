"""A caller's own certificate, as it shows it to agents and as it travels to another controller."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from backbench.domain.errors import InvalidArgument
from backbench.domain.security import ISSUED_ROLES, Role
from backbench.wire import certificates as wire

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this controller is in its fleet, PEM, with what its certificate says; `serial` in hex."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    authority_pem: bytes
    revocations_pem: bytes
    fleet_id: str
    name: str
    role: Role
    serial: str
    not_after_unix_s: int
    revocation_number: int
    revoked: bool

    @property
    def left_s(self) -> float:
        """Seconds until it ends."""
        return self.not_after_unix_s - time.time()


def read_identity(key_pem: bytes, certificate_pem: bytes, authority_pem: bytes, revocations_pem: bytes) -> Identity:
    """The identity that four PEM files make. Raises InvalidArgument where they do not belong together."""
    key = wire.key_from_pem(key_pem)
    certificate = wire.certificate_from_pem(certificate_pem)
    authority = wire.certificate_from_pem(authority_pem)
    number, revoked = wire.read_revocations(revocations_pem, authority)
    if key.public_key() != certificate.public_key():
        raise InvalidArgument("the key and the certificate do not belong together")
    if not wire.issued_by(certificate, authority):
        raise InvalidArgument("the certificate is not signed by the authority that comes with it")
    name, role = wire.holder_of(certificate)
    if role not in ISSUED_ROLES:
        raise InvalidArgument("the certificate names no role, so it is no caller's")
    return Identity(
        key_pem=key_pem,
        certificate_pem=certificate_pem,
        authority_pem=authority_pem,
        revocations_pem=revocations_pem,
        fleet_id=wire.fleet_id_of(authority),
        name=name,
        role=role,
        serial=f"{certificate.serial_number:x}",
        not_after_unix_s=int(certificate.not_valid_after_utc.timestamp()),
        revocation_number=number,
        revoked=certificate.serial_number in revoked,
    )


def to_bundle(identity: Identity) -> bytes:
    """One PEM text of all four: key, certificate, authority, revocations."""
    return identity.key_pem + identity.certificate_pem + identity.authority_pem + identity.revocations_pem


def from_bundle(data: bytes) -> Identity:
    """The identity in such a text. Raises InvalidArgument."""
    blocks = [(match[1].decode(), match[0]) for match in _BLOCK.finditer(data)]
    if [kind for kind, _ in blocks] != ["PRIVATE KEY", "CERTIFICATE", "CERTIFICATE", "X509 CRL"]:
        raise InvalidArgument(
            "not a file of backbench pki issue: key, certificate, authority and revocations in PEM form"
        )
    return read_identity(*(block for _, block in blocks))
