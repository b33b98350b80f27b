"""The fleets that this agent belongs to, below DATA_DIR/security.

Each has a folder named by its id with `authority.pem`, `certificate.pem` (this agent's) and `revocations.pem`. A folder
without its authority is no fleet: joining writes that file last, and leaving removes it first. Everything is read when
it is first asked for, so that an agent in plain text never loads what certificates need.
"""

from __future__ import annotations

import datetime
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backbench.domain.errors import BackbenchError, InvalidArgument
from backbench.domain.security import FleetMembership
from backbench.models.whole_file import clear_parts, sync_folder, written_whole

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

log = logging.getLogger(__name__)

_AUTHORITY = "authority.pem"
_CERTIFICATE = "certificate.pem"
_REVOCATIONS = "revocations.pem"


@dataclass(frozen=True, slots=True)
class Fleet:
    """One fleet: who signs, this agent's own certificate, and the serial numbers that are not let in."""

    fleet_id: str
    authority: x509.Certificate
    certificate: x509.Certificate
    revocation_number: int = 0
    revoked: frozenset[int] = frozenset()

    @property
    def membership(self) -> FleetMembership:
        """What a caller may know of it."""
        end = int(self.certificate.not_valid_after_utc.timestamp())
        return FleetMembership(self.fleet_id, end, self.revocation_number)


class DeviceKey:
    """The agent's own key, made when it is first needed and never sent anywhere."""

    def __init__(self, root: Path) -> None:
        self._path = root / "security" / "device.key"
        self._key: ec.EllipticCurvePrivateKey | None = None

    @property
    def pem(self) -> bytes:
        """The private key, PEM."""
        from backbench.wire.certificates import key_to_pem

        return key_to_pem(self._private())

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """The public key."""
        return self._private().public_key()

    def _private(self) -> ec.EllipticCurvePrivateKey:
        from backbench.wire.certificates import key_from_pem, key_to_pem, new_key

        if self._key is None:
            if self._path.exists():
                try:
                    self._key = key_from_pem(self._path.read_bytes())
                except InvalidArgument as error:
                    raise InvalidArgument(
                        f"{self._path}: {error}; remove {self._path.parent} and pair this agent again"
                    ) from error
            else:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                key = new_key()
                with written_whole(self._path, 0o600) as file:
                    file.write(key_to_pem(key))
                self._key = key
        return self._key


class Fleets:
    """All of them. What `all` returns is never changed, so any thread may read it."""

    def __init__(self, root: Path, device_id: str, key: DeviceKey) -> None:
        self._folder = root / "security" / "fleets"
        self._device_id = device_id
        self._key = key
        self._fleets: tuple[Fleet, ...] | None = None

    def all(self) -> tuple[Fleet, ...]:
        """Every fleet, by id."""
        if self._fleets is None:
            self._fleets = tuple(self._read_all())
        return self._fleets

    def get(self, fleet_id: str) -> Fleet | None:
        """One fleet; None for one that this agent does not belong to."""
        return next((fleet for fleet in self.all() if fleet.fleet_id == fleet_id), None)

    def check(self, certificate_pem: bytes, authority_pem: bytes, revocations_pem: bytes) -> Fleet:
        """The fleet that these certificates would make this agent a member of. Raises InvalidArgument."""
        fleet = self._parsed(certificate_pem, authority_pem, revocations_pem)
        now = datetime.datetime.now(datetime.timezone.utc)
        for name, each in (("authority's", fleet.authority), ("agent's", fleet.certificate)):
            if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
                raise InvalidArgument(
                    f"the {name} certificate is for {each.not_valid_before_utc:%Y-%m-%d} to "
                    f"{each.not_valid_after_utc:%Y-%m-%d} and it is {now:%Y-%m-%d} here; set the clocks or renew it"
                )
        if fleet.certificate.serial_number in fleet.revoked:
            raise InvalidArgument("the agent's certificate is on the fleet's own list of revoked ones; sign a new one")
        return fleet

    def join(self, certificate_pem: bytes, authority_pem: bytes, revocations_pem: bytes) -> Fleet:
        """Become a member, or replace what is held of that fleet; a newer list of revoked certificates is kept."""
        fleet = self.check(certificate_pem, authority_pem, revocations_pem)
        held = self.get(fleet.fleet_id)
        files = {_REVOCATIONS: revocations_pem, _CERTIFICATE: certificate_pem, _AUTHORITY: authority_pem}
        if held is not None and held.revocation_number >= fleet.revocation_number:
            fleet = Fleet(fleet.fleet_id, fleet.authority, fleet.certificate, held.revocation_number, held.revoked)
            del files[_REVOCATIONS]
        folder = self._folder / fleet.fleet_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in files.items():
            if data:
                _write(folder / name, data)
        self._replace(fleet.fleet_id, fleet)
        return fleet

    def revoke(self, fleet: Fleet, revocations_pem: bytes) -> int:
        """Put a newer list into force; the number of the one in force. Raises InvalidArgument for a foreign one."""
        from backbench.wire.certificates import read_revocations

        number, revoked = read_revocations(revocations_pem, fleet.authority)
        if number <= fleet.revocation_number:
            return fleet.revocation_number
        _write(self._folder / fleet.fleet_id / _REVOCATIONS, revocations_pem)
        if fleet.certificate.serial_number in revoked:
            log.warning("this agent's own certificate in fleet %s was revoked; renew it or pair again", fleet.fleet_id)
        self._replace(fleet.fleet_id, Fleet(fleet.fleet_id, fleet.authority, fleet.certificate, number, revoked))
        return number

    def remove(self, beginning: str) -> str:
        """Leave the one fleet whose id begins like this; its whole id. Raises InvalidArgument."""
        held = sorted(each.name for each in self._folders())
        found = [name for name in held if beginning and name.startswith(beginning)]
        if len(found) != 1:
            many = "more than one fleet" if found else "no fleet"
            raise InvalidArgument(
                f'"{beginning[:40]}" begins {many} of this agent; it belongs to {", ".join(held) or "none"}'
            )
        (fleet_id,) = found
        folder = self._folder / fleet_id
        (folder / _AUTHORITY).unlink(missing_ok=True)
        sync_folder(folder)
        shutil.rmtree(folder)
        self._replace(fleet_id, None)
        return fleet_id

    def _replace(self, fleet_id: str, fleet: Fleet | None) -> None:
        others = [each for each in self.all() if each.fleet_id != fleet_id]
        self._fleets = tuple(sorted([*others, *([fleet] if fleet else [])], key=lambda each: each.fleet_id))

    def _folders(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.is_dir()] if self._folder.is_dir() else []

    def _read_all(self) -> list[Fleet]:
        found = []
        clear_parts(self._folder.parent)
        for folder in sorted(self._folders()):
            clear_parts(folder)
            if not (folder / _AUTHORITY).exists():
                shutil.rmtree(folder)  # joining or leaving it was cut short
                continue
            try:
                fleet = self._read(folder)
            except (OSError, BackbenchError) as error:
                log.error(  # noqa: TRY400 - what is wrong is in the file, not in the code
                    "fleet %s is left out: %s; run backbench-agent fleets remove %s and pair again",
                    folder.name, error, folder.name,
                )  # fmt: skip
                continue
            if fleet.certificate.not_valid_after_utc < datetime.datetime.now(datetime.timezone.utc):
                log.warning("this agent's certificate in fleet %s has expired; renew it or pair again", folder.name)
            found.append(fleet)
        return found

    def _read(self, folder: Path) -> Fleet:
        revocations = folder / _REVOCATIONS
        fleet = self._parsed(
            (folder / _CERTIFICATE).read_bytes(),
            (folder / _AUTHORITY).read_bytes(),
            revocations.read_bytes() if revocations.exists() else b"",
        )
        if fleet.fleet_id != folder.name:
            raise InvalidArgument(f"its authority is of fleet {fleet.fleet_id}")
        return fleet

    def _parsed(self, certificate_pem: bytes, authority_pem: bytes, revocations_pem: bytes) -> Fleet:
        from backbench.wire import certificates as c

        authority, certificate = c.certificate_from_pem(authority_pem), c.certificate_from_pem(certificate_pem)
        if not c.is_authority(authority):
            raise InvalidArgument("the authority's certificate is not a self-signed one of an authority on P-256")
        if not c.issued_by(certificate, authority):
            raise InvalidArgument("the agent's certificate is not signed by that authority")
        if certificate.public_key() != self._key.public:
            raise InvalidArgument("the certificate is for another key than this agent's; ask it with GetSecurity first")
        fleet_id = c.fleet_id_of(authority)
        # Exactly its own names: with others it could stand in for this agent towards another fleet.
        wanted = {c.device_name(self._device_id, fleet_id), c.any_device_name(fleet_id)}
        if set(c.server_names(certificate)) != wanted or c.holder_of(certificate)[0] != self._device_id:
            raise InvalidArgument(f"the certificate is for another agent; this one is {self._device_id}")
        number, revoked = c.read_revocations(revocations_pem, authority) if revocations_pem else (0, frozenset[int]())
        return Fleet(fleet_id, authority, certificate, number, revoked)


def _write(path: Path, data: bytes) -> None:
    with written_whole(path, 0o600) as file:
        file.write(data)
