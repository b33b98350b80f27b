"""SecurityService over the fleets, the pairing codes and the gate."""

from __future__ import annotations

import socket
from typing import Any

import grpc

from backbench.agent.callers import current_caller
from backbench.agent.security.fleets import Fleet
from backbench.agent.security.pairing import PairingCodes
from backbench.agent.security.setup import Security
from backbench.domain.errors import BackbenchError, InvalidArgument, PairingUnavailable, PermissionDenied
from backbench.domain.security import AgentSecurity, Caller, Role
from backbench.v1 import security_pb2 as pb
from backbench.v1 import security_pb2_grpc
from backbench.wire.mapping import to_message

Context = grpc.aio.ServicerContext[Any, Any]

_MAX_PEM_BYTES = 1 << 20


class SecurityService(security_pb2_grpc.SecurityServiceServicer):
    """See backbench/v1/security.proto."""

    def __init__(self, security: Security) -> None:
        self._device_id = security.device_id
        self._key = security.key
        self._fleets = security.fleets
        self._codes = security.codes
        self._gate = security.gate

    async def GetSecurity(self, request: pb.GetSecurityRequest, context: Context) -> pb.GetSecurityResponse:  # noqa: ARG002, N802
        """Who this agent is, and who asks."""
        found = AgentSecurity(
            self._device_id,
            self._public_key_der(),
            tuple(fleet.membership for fleet in self._fleets.all()),
            current_caller(),
            socket.gethostname(),
        )
        return to_message(found, pb.GetSecurityResponse())

    async def InstallCertificate(  # noqa: N802
        self,
        request: pb.InstallCertificateRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.InstallCertificateResponse:
        """Join a fleet, or renew."""
        codes, caller = self._pairable(), current_caller()
        _check_size(request.certificate_pem, request.authority_pem, request.revocations_pem)
        fleet = self._fleets.check(request.certificate_pem, request.authority_pem, request.revocations_pem)
        if caller.role is Role.ADMIN and fleet.fleet_id != caller.fleet_id:
            raise PermissionDenied(
                f"{caller.name} is an admin of fleet {caller.fleet_id}, not of {fleet.fleet_id}; "
                "another fleet is joined with a pairing code: backbench-agent pair"
            )
        # Nothing else runs between the gate, which found the code good, and its end here.
        self._fleets.join(request.certificate_pem, request.authority_pem, request.revocations_pem)
        if caller.role is Role.PAIRING:
            codes.use(caller.name.removeprefix("pairing-"))
        self._gate.sweep()
        return pb.InstallCertificateResponse()

    async def InstallRevocations(  # noqa: N802
        self,
        request: pb.InstallRevocationsRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.InstallRevocationsResponse:
        """Put a newer list into force, and end the calls of those on it."""
        _check_size(request.revocations_pem)
        fleet = self._fleet_of(current_caller(), request.revocations_pem)
        number = self._fleets.revoke(fleet, request.revocations_pem)
        self._gate.sweep()
        return pb.InstallRevocationsResponse(revocation_number=number)

    async def OpenPairing(self, request: pb.OpenPairingRequest, context: Context) -> pb.OpenPairingResponse:  # noqa: ARG002, N802
        """A new code."""
        code, expires_unix_ns = self._pairable().open(request.ttl_s)
        return pb.OpenPairingResponse(code=code, expires_unix_ns=expires_unix_ns)

    async def RemoveFleet(self, request: pb.RemoveFleetRequest, context: Context) -> pb.RemoveFleetResponse:  # noqa: ARG002, N802
        """Leave a fleet, and end the calls of its members."""
        fleet_id = self._fleets.remove(request.fleet_id)
        self._gate.sweep()
        return pb.RemoveFleetResponse(fleet_id=fleet_id)

    def _pairable(self) -> PairingCodes:
        if self._codes is None:
            raise PairingUnavailable(
                "this agent serves plain text, where certificates mean nothing; start it with --tls, "
                "or with --listen on an address that others can reach"
            )
        return self._codes

    def _public_key_der(self) -> bytes:
        if self._codes is None:
            return b""
        from backbench.wire.certificates import public_key_der

        return public_key_der(self._key.public)

    def _fleet_of(self, caller: Caller, revocations_pem: bytes) -> Fleet:
        """The caller's own fleet; for a user of the device, whichever signed the list."""
        from backbench.wire.certificates import read_revocations

        mine = [each for each in self._fleets.all() if caller.role is Role.LOCAL or each.fleet_id == caller.fleet_id]
        if not mine:
            raise InvalidArgument("this agent belongs to no fleet; pair it first: backbench-agent pair")
        problem: BackbenchError | None = None
        for fleet in mine:
            try:
                read_revocations(revocations_pem, fleet.authority)
            except InvalidArgument as error:
                problem = error
                continue
            return fleet
        assert problem is not None  # noqa: S101 - there is at least one fleet
        raise problem


def _check_size(*parts: bytes) -> None:
    if any(len(part) > _MAX_PEM_BYTES for part in parts):
        raise InvalidArgument(f"a certificate or a list of revoked ones has at most {_MAX_PEM_BYTES} bytes")
