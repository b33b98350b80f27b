"""A fleet's authority: it signs certificates, remembers them, and takes them back."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from backbench.controller.security.folder import Folder
from backbench.controller.security.issued import Issued, Kind, from_json, to_json
from backbench.domain.errors import InvalidArgument, StoreUnusable
from backbench.domain.security import AgentSecurity, Role
from backbench.wire import certificates as wire

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

KEY, CERTIFICATE, REVOCATIONS, ISSUED = "authority.key", "authority.pem", "revocations.pem", "issued.json"
_SHORTEST_SERIAL = 8
_DEVICE_ID = re.compile(r"[0-9a-f]{8,63}")
"""An id stands in the name of a certificate, where a star or a dot would make it one of other devices."""


class Authority:
    """The authority whose key lies in a folder; every method sees what other processes have written meanwhile."""

    def __init__(self, folder: Folder, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._folder = folder
        self._key = key
        self._certificate = certificate
        self.fleet_id = wire.fleet_id_of(certificate)
        self.certificate_pem = wire.to_pem(certificate)

    @classmethod
    def create(cls, folder: Folder, name: str) -> Authority:
        """A new one. The key comes last, so that an authority whose making was cut off is none."""
        key = wire.new_key()
        certificate = wire.make_authority(key, name)
        folder.write(CERTIFICATE, wire.to_pem(certificate))
        folder.write(REVOCATIONS, wire.to_pem(wire.make_revocations(key, certificate, (), 1)))
        folder.write(ISSUED, to_json(()))
        folder.write(KEY, wire.key_to_pem(key))
        return cls(folder, key, certificate)

    @classmethod
    def open(cls, folder: Folder) -> Authority | None:
        """The one in the folder, if its key is there. Raises StoreUnusable."""
        key, certificate = folder.read(KEY), folder.read(CERTIFICATE)
        if key is None:
            return None
        try:
            found = cls(folder, wire.key_from_pem(key), wire.certificate_from_pem(certificate or b""))
        except InvalidArgument as error:
            raise _damaged(folder, KEY, error.message) from error
        if found._key.public_key() != found._certificate.public_key():
            raise _damaged(folder, KEY, "the key and the certificate do not belong together")
        return found

    @property
    def name(self) -> str:
        """The fleet's name."""
        return wire.holder_of(self._certificate)[0]

    def issued(self) -> tuple[Issued, ...]:
        """Every certificate that it signed, oldest first. Raises StoreUnusable."""
        return from_json(self._folder.read(ISSUED) or b"", str(self._folder.path / ISSUED))

    def revocations_pem(self) -> bytes:
        """The newest list of revoked certificates."""
        return self._folder.read(REVOCATIONS) or b""

    def revoked(self) -> tuple[int, frozenset[int]]:
        """The number of that list and the serial numbers on it. Raises StoreUnusable."""
        try:
            return wire.read_revocations(self.revocations_pem(), self._certificate)
        except InvalidArgument as error:
            raise _damaged(self._folder, REVOCATIONS, error.message) from error

    def is_revoked(self, issued: Issued) -> bool:
        """Whether a certificate was taken back."""
        return int(issued.serial, 16) in self.revoked()[1]

    def sign_client(
        self, name: str, role: Role, lifetime: datetime.timedelta = wire.CLIENT_LIFETIME
    ) -> tuple[bytes, bytes]:
        """A key and a certificate for a caller, PEM; they are kept nowhere else."""
        key = wire.new_key()
        certificate = wire.sign_client(self._key, self._certificate, key.public_key(), name, role, lifetime=lifetime)
        self._remember(Issued(_serial(certificate), Kind.CLIENT, name, end_of(certificate), role=role))
        return wire.key_to_pem(key), wire.to_pem(certificate)

    def sign_device(self, agent: AgentSecurity, name: str) -> tuple[bytes, int]:
        """An agent's certificate, PEM, and its end in seconds since 1970. Raises InvalidArgument for odd ones."""
        if _DEVICE_ID.fullmatch(agent.device_id) is None:
            raise InvalidArgument(f"the agent of {name} has an odd id, {agent.device_id[:80]!a}; update it")
        key = wire.public_key_from_der(agent.public_key_der)
        certificate = wire.sign_device(self._key, self._certificate, key, agent.device_id)
        end = end_of(certificate)
        self._remember(Issued(_serial(certificate), Kind.DEVICE, name, end, device_id=agent.device_id))
        return wire.to_pem(certificate), end

    def find(self, reference: str) -> tuple[Issued, ...]:
        """The certificates of that name that still open something, or the one of that serial number (or a beginning).

        Raises InvalidArgument.
        """
        issued, (_, revoked) = self.issued(), self.revoked()
        serial = reference.lower()
        by_serial = [each for each in issued if len(serial) >= _SHORTEST_SERIAL and each.serial.startswith(serial)]
        named = [each for each in issued if each.name == reference]
        found = named or by_serial
        if not found or (not named and len(found) > 1):
            raise InvalidArgument(
                f'"{reference[:64]}" is no name and no serial number that was issued here; see backbench pki list'
            )
        good = tuple(each for each in found if int(each.serial, 16) not in revoked and not each.expired)
        if not good:
            raise InvalidArgument(f"nothing of {reference} is valid any more; see backbench pki list")
        if len({each.kind for each in good}) > 1:
            raise InvalidArgument(f"{reference} names a client and a device; give the serial number instead")
        return good

    def revoke(self, certificates: Iterable[Issued]) -> int:
        """Take certificates back; returns the number of the list that says so.

        It is the time, so that devices take the list of a folder that was put back from an old copy for a newer one.
        """
        with self._folder.locked():
            number, revoked = self.revoked()
            number = max(number + 1, int(time.time()))
            serials = {*revoked, *(int(each.serial, 16) for each in certificates)}
            revocations = wire.make_revocations(self._key, self._certificate, serials, number)
            self._folder.write(REVOCATIONS, wire.to_pem(revocations))
            return number

    def barred(self, device_id: str) -> bool:
        """Whether a device's newest certificate was taken back, so that it is not to be talked to."""
        newest = next((each for each in reversed(self.issued()) if each.device_id == device_id), None)
        return newest is not None and self.is_revoked(newest)

    def _remember(self, certificate: Issued) -> None:
        # Before the certificate leaves: what is out there can always be named and taken back.
        with self._folder.locked():
            self._folder.write(ISSUED, to_json((*self.issued(), certificate)))


def end_of(certificate: x509.Certificate) -> int:
    """When a certificate ends, in seconds since 1970."""
    return int(certificate.not_valid_after_utc.timestamp())


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def _damaged(folder: Folder, name: str, cause: str) -> StoreUnusable:
    return StoreUnusable(f"{folder.path / name} is damaged: {cause}; put it back from a copy of that folder")
