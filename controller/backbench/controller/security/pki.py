"""The folder `pki` of a store: the fleet's authority where this controller keeps it, and this controller's identity."""

from __future__ import annotations

import datetime
import getpass
import os
import re
import socket
from pathlib import Path

from backbench.controller.security.authority import CERTIFICATE, REVOCATIONS, Authority
from backbench.controller.security.folder import Folder
from backbench.controller.security.identity import Identity, from_bundle, read_identity, to_bundle
from backbench.domain.errors import InvalidArgument, StoreUnusable, Unauthenticated
from backbench.domain.security import Role
from backbench.wire.certificates import CLIENT_LIFETIME, certificate_from_pem, read_revocations

_KEY, _CERTIFICATE = "client.key", "client.pem"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Pki:
    """Opened anew for every use; nothing is read before it is asked for."""

    def __init__(self, root: Path) -> None:
        self._folder = Folder(root / "pki")
        self._root = root

    @property
    def path(self) -> Path:
        """Where everything lies."""
        return self._folder.path

    def authority(self) -> Authority | None:
        """The fleet's authority, where its key is here. Raises StoreUnusable."""
        return Authority.open(self._folder)

    def required_authority(self) -> Authority:
        """The fleet's authority. Raises InvalidArgument where its key is not here."""
        authority = self.authority()
        if authority is not None:
            return authority
        if self._folder.read(_CERTIFICATE) is None:
            raise InvalidArgument(f"there is no authority in {self.path} yet; make it: backbench pki init")
        raise InvalidArgument(
            f"the identity in {self.path} was imported: only the controller that issued it can pair, issue, renew and"
            " revoke; do it there, or take a store of its own with --store"
        )

    def init(self, name: str = "") -> Authority:
        """A new authority and this controller's own identity. Raises InvalidArgument where there is one already."""
        with self._folder.locked():
            if self._folder.read(_CERTIFICATE) is not None or Authority.open(self._folder) is not None:
                raise InvalidArgument(f"{self.path} holds keys already, and devices that trust them; they stay")
            authority = Authority.create(self._folder, name or f"Backbench fleet of {_host()}")
        self.identity()
        return authority

    def authority_or_new(self) -> Authority:
        """The fleet's authority, made now where there is neither one nor an imported identity."""
        if self._folder.read(_CERTIFICATE) is None and self.authority() is None:
            return self.init()
        return self.required_authority()

    def identity(self) -> Identity | None:
        """Who this controller is; None where it is in no fleet.

        Where the authority is here, it is renewed as soon as less than a third of its time is left. Raises
        Unauthenticated for an expired one where that cannot be done, StoreUnusable for damaged files.
        """
        authority = self.authority()
        if authority is None:
            return self._imported()
        identity = self._own()
        if identity is None:
            identity = self.renew_identity()
        return identity

    def renew_identity(self) -> Identity:
        """Another key and certificate for this controller. Raises InvalidArgument where the authority is not here."""
        authority = self.required_authority()
        key, certificate = authority.sign_client(own_name(), Role.ADMIN)
        with self._folder.locked():
            self._folder.write(_KEY, key)
            self._folder.write(_CERTIFICATE, certificate)
        return read_identity(key, certificate, authority.certificate_pem, authority.revocations_pem())

    def issue(self, name: str, role: Role, lifetime: datetime.timedelta, to: Path) -> Identity:
        """Write an identity for somebody else to a new file, key included. Raises InvalidArgument, OSError."""
        authority = self.required_authority()
        check_holder(name)
        try:
            number = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise InvalidArgument(f"{to} exists and stays as it is; give another --out") from error
        with os.fdopen(number, "wb") as file:
            try:
                key, certificate = authority.sign_client(name, role, lifetime)
                identity = read_identity(key, certificate, authority.certificate_pem, authority.revocations_pem())
                file.write(to_bundle(identity))
            except BaseException:
                to.unlink()
                raise
        return identity

    def take(self, source: Path) -> Identity:
        """Become who a file of `issue` says. Raises InvalidArgument, OSError."""
        try:
            identity = from_bundle(source.read_bytes())
        except InvalidArgument as error:
            raise InvalidArgument(f"{source}: {error.message}") from error
        if identity.left_s <= 0 or identity.revoked:
            state = "revoked" if identity.revoked else "expired"
            raise InvalidArgument(f"{source}: {identity.name} is {state}; ask for a new one: backbench pki issue")
        with self._folder.locked():
            if self.authority() is not None:
                raise InvalidArgument(f"{self.path} holds a fleet's authority; import into another store: --store DIR")
            authority_pem = self._folder.read(CERTIFICATE)
            if authority_pem is not None and authority_pem.strip() != identity.authority_pem.strip():
                raise InvalidArgument(f"{self.path} belongs to another fleet; import into another store: --store DIR")
            self._folder.write(CERTIFICATE, identity.authority_pem)
            self._write_newer(identity)
            self._folder.write(_KEY, identity.key_pem)
            self._folder.write(_CERTIFICATE, identity.certificate_pem)
        return identity

    def _write_newer(self, identity: Identity) -> None:
        known = self._folder.read(REVOCATIONS)
        authority = certificate_from_pem(identity.authority_pem)
        if known is None or read_revocations(known, authority)[0] < identity.revocation_number:
            self._folder.write(REVOCATIONS, identity.revocations_pem)

    def _own(self) -> Identity | None:
        """The identity beside the authority; None where it is to be made anew, for whatever reason."""
        try:
            identity = self._read()
        except InvalidArgument:
            return None
        due = identity is None or identity.revoked or identity.left_s < CLIENT_LIFETIME.total_seconds() / 3
        return None if due else identity

    def _imported(self) -> Identity | None:
        try:
            identity = self._read()
        except InvalidArgument as error:
            raise StoreUnusable(
                f"{self.path} is damaged: {error.message}; import the identity again: backbench pki import FILE"
            ) from error
        if identity is not None and identity.left_s <= 0:
            raise Unauthenticated(
                f"the certificate of {identity.name} has expired; ask for a new one (backbench pki issue"
                f" {identity.name}) where the fleet's authority is, then here: backbench pki import FILE"
            )
        return identity

    def _read(self) -> Identity | None:
        files = [self._folder.read(name) for name in (_KEY, _CERTIFICATE, CERTIFICATE, REVOCATIONS)]
        present = [data for data in files if data is not None]
        if files[1] is None:
            return None
        if len(present) < len(files):
            raise InvalidArgument("a file is missing")
        return read_identity(*present)


def check_holder(name: str) -> None:
    """Raises InvalidArgument for a name that no certificate is made for."""
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f'"{name[:80]}" cannot be a name in a certificate; take 1 to 64 letters, digits, ".", "_", "@" and "-"'
        )


def own_name() -> str:
    """USER@HOST, as far as they can be had."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "controller"
    name = re.sub(r"[^A-Za-z0-9._@-]+", "-", f"{user}@{_host()}").lstrip("._@-")[:64]
    return name or "controller"


def _host() -> str:
    return socket.gethostname().partition(".")[0]
