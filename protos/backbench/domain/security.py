"""Who may use an agent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a caller may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    PAIRING = "pairing"
    LOCAL = "local"


ISSUED_ROLES = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
"""Roles that a fleet's authority gives to people and machines."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is; `fleet_id` and `serial` (hex) are empty for callers without a fleet's certificate."""

    name: str
    role: Role
    fleet_id: str = ""
    serial: str = ""


LOCAL_CALLER = Caller("local", Role.LOCAL)
"""A user of the device itself, or anyone where plain text beyond loopback was asked for in so many words."""


@dataclass(frozen=True, slots=True)
class FleetMembership:
    """An agent's place in one fleet; `revocation_number` is 0 before the first list of revoked certificates."""

    fleet_id: str
    not_after_unix_s: int
    revocation_number: int = 0


@dataclass(frozen=True, slots=True)
class AgentSecurity:
    """An agent's identity, the fleets it belongs to, and who asked for it."""

    device_id: str
    public_key_der: bytes
    fleets: tuple[FleetMembership, ...]
    caller: Caller
    hostname: str = ""
