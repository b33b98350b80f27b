"""One call to an agent: its deadline, whether and how it is repeated, and its failure as a domain error."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import grpc

from backbench.controller.client.channel import CONNECT_S
from backbench.domain.errors import (
    AgentUnreachable,
    BackbenchError,
    DeadlineExceeded,
    Unreachable,
    UntrustedAgent,
    VersionMismatch,
)
from backbench.wire.status import STATUS_KEY, error_from_status

Answer = TypeVar("Answer")

ANSWER_S = 30.0
"""How long an agent may take over a call; the first GetDevice after a start waits for its backends."""
PATIENCE_S = CONNECT_S
"""How long an agent that cannot be reached is tried."""
_CUT = ("RST_STREAM", "Stream removed", "stream removed", "transport", "GOAWAY", "Connection reset", "Socket closed")
_CAUSES = {
    "Connection refused": "connection refused",
    "DNS resolution failed": "the host name does not resolve",
    "Could not resolve": "the host name does not resolve",
    "Domain name not found": "the host name does not resolve",
    "Network is unreachable": "the network is unreachable",
    "No route to host": "no route to the host",
}
TURNED_AWAY = "turned away"
"""The cause, among an error's details, of a connection that the other side closed before it was made."""
OTHER_CERTIFICATE = ("Hostname Verification", "is not in peer certificate", "CERTIFICATE_VERIFY_FAILED")
"""The causes that mean a good certificate, but not the one that was asked for."""
_TURNED_AWAY = {
    True: "it ended the connection in the handshake; it may not take this controller's certificate: backbench pki list",
    False: "it ended the connection at once; it may ask for TLS: backbench pair {address}",
}
"""What that may mean, with TLS and without."""
_ANOTHER_DEVICE = (
    "another device answers at {address}: it shows a certificate for another host; check the address, or pair this one:"
    " backbench pair {address}"
)
_UNTRUSTED = {
    "certificate has expired": (
        "the certificate of the agent at {address} has expired; check the clocks, or pair again: backbench pair"
        " {address}"
    ),
    "certificate is not yet valid": (
        "the certificate of the agent at {address} is not valid yet by the clock of this machine; set the clock"
    ),
    "Hostname Verification": _ANOTHER_DEVICE,
    "is not in peer certificate": _ANOTHER_DEVICE,
    "CERTIFICATE_VERIFY_FAILED": (
        "what answers at {address} has no certificate of this fleet; check the address, and if its agent was set up"
        " anew, pair again: backbench pair {address}"
    ),
    "WRONG_VERSION_NUMBER": (
        "what answers at {address} speaks no TLS and so cannot show who it is; start the agent there with --tls, and"
        " without --insecure-plaintext"
    ),
}
"""By signs in gRPC's words, the sharper first. Trying again changes none of these."""


class Calls:
    """Calls to the agent at one address; `tls` says how, for the words of an error."""

    def __init__(self, address: str, patience_s: float = PATIENCE_S, *, tls: bool = False) -> None:
        self.address = address
        self._patience_s = patience_s
        self._tls = tls

    def once(self, method: Callable[..., Answer], request: Any, deadline_s: float = ANSWER_S) -> Answer:
        """The answer; the request is sent at most once."""
        started = time.monotonic()
        try:
            return method(request, timeout=deadline_s)
        except grpc.RpcError as error:
            raise self.error(error, time.monotonic() - started) from error

    def repeated(self, method: Callable[..., Answer], request: Any, deadline_s: float = ANSWER_S) -> Answer:
        """The answer to a request that may arrive twice: repeated while the agent cannot be reached."""
        started = time.monotonic()
        pause_s = 0.1
        while True:
            left_s = max(0.001, deadline_s - (time.monotonic() - started))
            try:
                return method(request, timeout=left_s)
            except grpc.RpcError as error:
                known = self.error(error, time.monotonic() - started)
                over = time.monotonic() - started + pause_s >= min(self._patience_s, deadline_s)
                if over or not isinstance(known, Unreachable):
                    raise known from error
            time.sleep(jittered(pause_s))
            pause_s = min(2 * pause_s, 2.0)

    def error(self, error: grpc.RpcError, tried_s: float) -> BackbenchError:
        """What a failed call means."""
        code, details = error.code(), error.details() or ""
        trailers: tuple[tuple[str, str | bytes], ...] = tuple(cast(Any, error.trailing_metadata()) or ())
        if any(key == STATUS_KEY for key, _ in trailers):
            known = error_from_status(code, details, trailers)
            return known or self._mistake(code, details)
        if code is grpc.StatusCode.UNAVAILABLE or any(word in details for word in _CUT):
            return self._unreachable(details, tried_s)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(
                f"the agent at {self.address} did not answer within {tried_s:.0f} s; look at its log, then try again"
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return VersionMismatch(
                f"what answers at {self.address} does not know this call ({_one_line(details)}); check the address, and"
                " update Backbench on the device"
            )
        bare = error_from_status(code, details, trailers)
        if bare is None:
            return self._mistake(code, details)
        return type(bare)(f"the agent at {self.address} refused the call: {_one_line(details)}")

    def _unreachable(self, details: str, tried_s: float) -> BackbenchError:
        sign = next((sign for sign in _UNTRUSTED if sign in details), None)
        if sign is not None:
            return UntrustedAgent(_UNTRUSTED[sign].format(address=self.address), address=self.address, cause=sign)
        tried = f", tried for {tried_s:.1f} s" if tried_s else ""
        cause = _cause_of(details)
        words = _TURNED_AWAY[self._tls].format(address=self.address) if cause == TURNED_AWAY else cause
        return AgentUnreachable(
            f"no agent answers at {self.address}{tried} ({words}); check the address, that the"
            " device is on, and that `backbench-agent serve` listens there",
            address=self.address,
            cause=cause,
        )

    def _mistake(self, code: grpc.StatusCode, details: str) -> BackbenchError:
        return BackbenchError(f"the agent at {self.address} failed ({code.name}): {_one_line(details)}")


def jittered(pause_s: float) -> float:
    """A pause of half to one and a half times the length, so that many controllers do not come back at once."""
    return pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - no secret


def _cause_of(details: str) -> str:
    known = next((text for sign, text in _CAUSES.items() if sign in details), None)
    if known is not None:
        return known
    if "ailed to connect" not in details:
        return "the connection was cut"
    return TURNED_AWAY if any(sign in details for sign in (*_CUT, "handshake")) else "no answer"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300] or "no details"
