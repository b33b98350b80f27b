"""The parts of an agent's security, put together."""

from __future__ import annotations

from pathlib import Path

import grpc

from backbench.agent.security.fleets import DeviceKey, Fleets
from backbench.agent.security.gate import Gate
from backbench.agent.security.holders import Holders
from backbench.agent.security.pairing import PairingCodes
from backbench.agent.settings import CallLimits


class Security:
    """`codes` and `credentials` are None for an agent in plain text, which loads nothing that certificates need."""

    def __init__(self, root: Path, device_id: str, limits: CallLimits, *, tls: bool) -> None:
        self.device_id = device_id
        self.key = DeviceKey(root)
        self.fleets = Fleets(root, device_id, self.key)
        self.codes: PairingCodes | None = None
        self.credentials: grpc.ServerCredentials | None = None
        holders: Holders | None = None
        if tls:
            from backbench.agent.security.credentials import Credentials

            self.codes = PairingCodes(self.key)
            self.credentials = Credentials(self.key, self.fleets, self.codes).server()
            holders = Holders(self.fleets, self.codes)
        self.gate = Gate(holders, limits)

    def first_code(self) -> str | None:
        """A pairing code for an agent that nobody can reach yet; None for any other."""
        if self.codes is None or self.fleets.all():
            return None
        return self.codes.open(0)[0]
