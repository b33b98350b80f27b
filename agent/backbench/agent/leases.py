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
_LONGEST_HOLDER = 128


class Leases:
    """At most one lease. Time is counted here, on this device's monotonic clock; the epoch outlives restarts.

    A lease itself does not: after a restart the device is free, and its old holder is told so when it renews.
    `on_change` is called whenever a lease was granted, renewed or given back.
    """

    def __init__(self, registry: Registry, now: Callable[[], int] = time.monotonic_ns) -> None:
        self._registry = registry
        self._now = now
        self._lease: Lease | None = None
        self._expires_ns = 0
        self.on_change: Callable[[], None] = lambda: None

    @property
    def current(self) -> Lease | None:
        """The lease that lives now."""
        if self._lease is not None and self._now() >= self._expires_ns:
            self._lease = None
        return self._lease

    @property
    def current_id(self) -> str:
        """Its id; "" for none."""
        lease = self.current
        return lease.lease_id if lease else ""

    @property
    def left_s(self) -> float:
        """How long it lives on without renewal; 0 without one."""
        return (self._expires_ns - self._now()) / SECOND_NS if self.current else 0.0

    def acquire(self, holder: str, ttl_ns: int | None) -> Lease:
        """Grant a lease with a new epoch. Raises DeviceBusy while another one lives."""
        current = self.current
        if current is not None:
            raise DeviceBusy(
                f"the device is reserved for {current.holder} for another {self.left_s:.0f} s; try again then",
                holder=current.holder,
                remaining_s=f"{self.left_s:.0f}",
            )
        ttl_ns = ttl_ns or DEFAULT_TTL_NS
        if not _SHORTEST_NS <= ttl_ns <= _LONGEST_NS:
            raise InvalidArgument(f"a lease lives 5 to 600 s without renewal, not {ttl_ns / SECOND_NS:g} s")
        if len(holder) > _LONGEST_HOLDER or not holder.isprintable():
            raise InvalidArgument(f"a holder is named in at most {_LONGEST_HOLDER} printable characters")
        epoch = int(self._registry.setting("epoch") or 0) + 1
        self._registry.put_setting("epoch", str(epoch))
        self._lease = Lease(uuid.uuid4().hex, epoch, holder or "somebody", ttl_ns)
        self._expires_ns = self._now() + ttl_ns
        self.on_change()
        return self._lease

    def renew(self, lease_id: str, epoch: int) -> Lease:
        """Let a lease live on. Raises LeaseNotFound, StaleEpoch."""
        lease = self.held(lease_id, epoch)
        self._expires_ns = self._now() + lease.ttl_ns
        self.on_change()
        return lease

    def release(self, lease_id: str) -> None:
        """Give a lease back; one that is gone already is no error."""
        if self._lease is not None and self._lease.lease_id == lease_id:
            self._lease = None
            self.on_change()

    def held(self, lease_id: str, epoch: int) -> Lease:
        """The lease that lives, if it is this one. Raises LeaseNotFound, StaleEpoch."""
        newest = int(self._registry.setting("epoch") or 0)
        if epoch < newest:
            raise StaleEpoch(
                f"epoch {epoch} is older than {newest}: somebody else got the device since; acquire it anew"
            )
        lease = self.current
        if lease is None or lease.lease_id != lease_id:
            raise LeaseNotFound("the lease does not exist or has expired; acquire it anew")
        return lease
