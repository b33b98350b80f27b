"""What TLS shows and whom it lets in, made anew at the first handshake after a change.

Every caller needs a certificate of one of this agent's fleets or of a pairing code. gRPC chooses this agent's own
certificate by the server name that the caller asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from backbench.agent.quiet import quiet_stderr

if TYPE_CHECKING:
    from backbench.agent.security.fleets import DeviceKey, Fleets
    from backbench.agent.security.pairing import PairingCodes


class Credentials:
    """The server's side of TLS over fleets and pairing codes that change."""

    def __init__(self, key: DeviceKey, fleets: Fleets, codes: PairingCodes) -> None:
        from backbench.wire import pairing as wire
        from backbench.wire.certificates import to_pem

        self._key_pem = key.pem
        self._fleets = fleets
        self._codes = codes
        # The authority of a code that nobody was told: where there is no other, nobody gets in.
        closed = wire.new_code()
        self._closed = (to_pem(wire.sign_pairing_server(closed, key.public)), to_pem(wire.pairing_authority(closed)[1]))
        self._shown: object = None

    def server(self) -> grpc.ServerCredentials:
        """For a secure port; every caller must show a certificate."""
        self._shown = self._state()
        with quiet_stderr():  # gRPC starts here and warns of its log level, which is the one that tells of handshakes
            return grpc.dynamic_ssl_server_credentials(
                self._configuration(),
                self._changed,  # type: ignore[arg-type] # the stubs do not know that it may give None
                require_client_authentication=True,
            )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at every handshake, from a thread of its own; None leaves everything as it was."""
        state = self._state()
        if state == self._shown:
            return None
        configuration = self._configuration()
        self._shown = state
        return configuration

    def _state(self) -> object:
        return self._fleets.all(), tuple(code.code_id for code in self._codes.known())

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        from backbench.wire.certificates import to_pem

        fleets, codes = self._fleets.all(), self._codes.known()
        shown = [to_pem(fleet.certificate) for fleet in fleets] + [code.certificate_pem for code in codes]
        authorities = [to_pem(fleet.authority) for fleet in fleets] + [to_pem(code.authority) for code in codes]
        if not shown:
            shown, authorities = [self._closed[0]], [self._closed[1]]
        return grpc.ssl_server_certificate_configuration(
            [(self._key_pem, certificate) for certificate in shown], b"".join(authorities)
        )
