"""One-time pairing codes. They live in memory alone: a restart ends them all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backbench.domain.errors import InvalidArgument, PairingUnavailable, PermissionDenied

if TYPE_CHECKING:
    from cryptography import x509

    from backbench.agent.security.fleets import DeviceKey

DEFAULT_TTL_S = 600
_MIN_TTL_S, _MAX_TTL_S = 60, 3600
_MAX_LIVING = 4
_REMEMBERED_S = 3600.0
"""This long after its end whoever comes with a code is told so, instead of meeting a bare TLS failure."""
_MAX_KNOWN = 32
_AGAIN = "make a new one on the device: backbench-agent pair"


@dataclass(frozen=True, slots=True)
class PairingCode:
    """What is kept of a code: the authority that it stands for and this agent's certificate of it, not its text."""

    code_id: str
    authority: x509.Certificate
    certificate_pem: bytes
    end_s: float
    used: bool = False


class PairingCodes:
    """The codes that are good now, and those that were. What `known` returns may be read by any thread."""

    def __init__(self, key: DeviceKey, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key
        self._clock = clock
        self._codes: tuple[PairingCode, ...] = ()

    def open(self, ttl_s: int) -> tuple[str, int]:
        """A new code, and its end in nanoseconds since 1970; `ttl_s` 0 means ten minutes."""
        from backbench.wire import pairing as wire
        from backbench.wire.certificates import to_pem

        ttl_s = ttl_s or DEFAULT_TTL_S
        if not _MIN_TTL_S <= ttl_s <= _MAX_TTL_S:
            raise InvalidArgument(
                f"a pairing code is good for {_MIN_TTL_S // 60} to {_MAX_TTL_S // 60} minutes, not for {ttl_s / 60:g}"
            )
        now = self._clock()
        living = [code for code in self._codes if self._lives(code)]
        if len(living) >= _MAX_LIVING:
            wait_s = min(code.end_s for code in living) - now
            raise PairingUnavailable(
                f"{_MAX_LIVING} pairing codes are open already; use one, or wait {wait_s / 60:.0f} minutes for its end"
            )
        code = wire.new_code()
        _, authority = wire.pairing_authority(code)
        certificate = to_pem(wire.sign_pairing_server(code, self._key.public))
        made = PairingCode(wire.pairing_id(authority), authority, certificate, now + ttl_s)
        self._codes = (*self.known(), made)[-_MAX_KNOWN:]
        return code, time.time_ns() + ttl_s * 10**9

    def known(self) -> tuple[PairingCode, ...]:
        """Those that are good, used or expired not long ago, oldest first."""
        now = self._clock()
        return tuple(code for code in self._codes if now < code.end_s + _REMEMBERED_S)

    def check(self, code_id: str) -> None:
        """Raises PermissionDenied for a code that is good no more."""
        code = next((code for code in self._codes if code.code_id == code_id), None)
        if code is not None and code.used:
            raise PermissionDenied(f"this pairing code was used already; {_AGAIN}")
        if code is None or not self._lives(code):
            raise PermissionDenied(f"this pairing code has expired; {_AGAIN}")

    def use(self, code_id: str) -> None:
        """Use a code up."""
        now = self._clock()
        self._codes = tuple(
            replace(code, used=True, end_s=now) if code.code_id == code_id else code for code in self._codes
        )

    def _lives(self, code: PairingCode) -> bool:
        return not code.used and self._clock() < code.end_s
