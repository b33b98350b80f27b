"""The right to the device for several runs: one holder at a time, with an epoch that never falls."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from backbench.agent.registry import Registry
from backbench.domain.errors import DeviceBusy, InvalidArgument, LeaseNotFound, StaleEpoch
from backbench.domain.run import SECOND_NS, Lease

DEFAULT_TTL_NS = 60 * SECOND_NS
_SHORTEST_NS, _LONGEST_NS = 5 * SECOND_NS, 600 * SECOND_NS


class Leases:
    """At most one lease. Time is counted here, on this device's monotonic clock; the epoch outlives restarts."""

    def __init__(self, registry: Registry, now: Callable[[], int] = time.monotonic_ns) -> None:
        self._registry = registry
        self._now = now
        self._lease: Lease | None = None
        self._expires_ns = 0

    def acquire(self, holder: str, ttl_ns: int | None) -> Lease:
        """Grant a lease with a new epoch. Raises DeviceBusy while another one lives."""
        current = self._current()
        if current is not None:
            left = (self._expires_ns - self._now()) / SECOND_NS
            raise DeviceBusy(f"the device is reserved for {current.holder} for another {left:.0f} s; try again then")
        ttl_ns = ttl_ns or DEFAULT_TTL_NS
        if not _SHORTEST_NS <= ttl_ns <= _LONGEST_NS:
            raise InvalidArgument(f"a lease lives 5 to 600 s without renewal, not {ttl_ns / SECOND_NS:g} s")
        epoch = int(self._registry.setting("epoch") or 0) + 1
        self._registry.put_setting("epoch", str(epoch))
        self._lease = Lease(uuid.uuid4().hex, epoch, holder or "somebody", ttl_ns)
        self._expires_ns = self._now() + ttl_ns
        return self._lease

    def renew(self, lease_id: str, epoch: int) -> Lease:
        """Let a lease live on. Raises LeaseNotFound, StaleEpoch."""
        lease = self._held(lease_id, epoch)
        self._expires_ns = self._now() + lease.ttl_ns
        return lease

    def release(self, lease_id: str) -> None:
        """Give a lease back; one that is gone already is no error."""
        if self._lease is not None and self._lease.lease_id == lease_id:
            self._lease = None

    def check(self, lease_id: str, epoch: int) -> None:
        """Let a run under this lease, or under none, pass. Raises DeviceBusy, LeaseNotFound, StaleEpoch."""
        if lease_id:
            self._held(lease_id, epoch)
        elif (current := self._current()) is not None:
            raise DeviceBusy(f"the device is reserved for {current.holder}; try again when it is given back")

    def _held(self, lease_id: str, epoch: int) -> Lease:
        newest = int(self._registry.setting("epoch") or 0)
        if epoch < newest:
            raise StaleEpoch(
                f"epoch {epoch} is older than {newest}: somebody else got the device since; acquire it anew"
            )
        lease = self._current()
        if lease is None or lease.lease_id != lease_id:
            raise LeaseNotFound("the lease does not exist or has expired; acquire it anew")
        return lease

    def _current(self) -> Lease | None:
        if self._lease is not None and self._now() >= self._expires_ns:
            self._lease = None
        return self._lease
