"""Whose certificate a call comes with, and whether it is still good."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from backbench.agent.security.fleets import Fleet, Fleets
from backbench.agent.security.pairing import PairingCode, PairingCodes
from backbench.domain.errors import InvalidArgument, Unauthenticated
from backbench.domain.security import ISSUED_ROLES, Caller, Role

_MAX_KNOWN = 1024
_ASK = "ask whoever keeps the fleet's authority for a new one"


@dataclass(frozen=True, slots=True)
class Holder:
    """A caller with the dates of its certificate, seconds since 1970, and the pairing code that it is of, if any."""

    caller: Caller
    not_before_unix_s: float
    not_after_unix_s: float
    code_id: str = ""


class Holders:
    """Reads certificates, each one once for as long as fleets and codes stay what they are."""

    def __init__(self, fleets: Fleets, codes: PairingCodes) -> None:
        self._fleets = fleets
        self._codes = codes
        self._known: dict[bytes, Holder] = {}
        self._valid_for: object = None

    def holder(self, certificate_pem: bytes) -> Holder:
        """The holder of a certificate of this agent's, good or not (see `check`). Raises Unauthenticated."""
        state = (self._fleets.all(), self._codes.known())
        if state != self._valid_for or len(self._known) >= _MAX_KNOWN:
            self._known.clear()
            self._valid_for = state
        holder = self._known.get(certificate_pem)
        if holder is None:
            holder = self._known[certificate_pem] = _read(certificate_pem, *state)
        return holder

    def check(self, holder: Holder) -> None:
        """Raises Unauthenticated for a certificate that is good no more, PermissionDenied for such a pairing code."""
        name, now = holder.caller.name, datetime.datetime.now(datetime.timezone.utc).timestamp()
        if now > holder.not_after_unix_s:
            raise Unauthenticated(f"the certificate of {name} expired on {_day(holder.not_after_unix_s)}; {_ASK}")
        if now < holder.not_before_unix_s:
            raise Unauthenticated(
                f"the certificate of {name} begins on {_day(holder.not_before_unix_s)} and it is {_day(now)} here; "
                "set the clocks of both machines"
            )
        if holder.code_id:
            self._codes.check(holder.code_id)
            return
        fleet = self._fleets.get(holder.caller.fleet_id)
        if fleet is None:
            raise Unauthenticated(f"this agent has left fleet {holder.caller.fleet_id}; pair it again")
        if int(holder.caller.serial, 16) in fleet.revoked:
            raise Unauthenticated(f"the certificate of {name} was revoked; {_ASK}")


def _read(certificate_pem: bytes, fleets: tuple[Fleet, ...], codes: tuple[PairingCode, ...]) -> Holder:
    from backbench.wire import certificates as c

    try:
        certificate = c.certificate_from_pem(certificate_pem)
    except InvalidArgument as error:
        raise Unauthenticated(f"the caller's certificate cannot be read: {error}") from error
    dates = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    serial = f"{certificate.serial_number:x}"
    for fleet in fleets:
        if c.issued_by(certificate, fleet.authority):
            name, role = c.holder_of(certificate)
            # The roles of users of the device and of pairing are not a fleet's to give.
            if role not in ISSUED_ROLES:
                raise Unauthenticated(f"the certificate of {name} gives no role; {_ASK}")
            return Holder(Caller(name, role, fleet.fleet_id, serial), *dates)
    for code in codes:
        # Whoever has the code can sign whatever it likes with it: the role is always this one.
        if c.issued_by(certificate, code.authority):
            # And as many of them as it likes: all are one caller.
            return Holder(Caller(f"pairing-{code.code_id}", Role.PAIRING), *dates, code.code_id)
    raise Unauthenticated("the caller's certificate is of no fleet that this agent belongs to; pair it first")


def _day(unix_s: float) -> str:
    return f"{datetime.datetime.fromtimestamp(unix_s, datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"
