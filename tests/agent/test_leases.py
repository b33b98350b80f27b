"""Leases: one holder, an epoch that never falls, time that runs out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backbench.agent.leases import DEFAULT_TTL_NS, Leases
from backbench.agent.registry import Registry
from backbench.domain.errors import DeviceBusy, InvalidArgument, LeaseNotFound, StaleEpoch


class Clock:
    """Time that moves when it is told to."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(tmp_path: Path, clock: Clock) -> Iterator[Leases]:
    registry = Registry(tmp_path / "agent.sqlite")
    yield Leases(registry, clock)
    registry.close()


def test_a_second_controller_is_told_who_holds_the_device(leases: Leases) -> None:
    lease = leases.acquire("ana's laptop", None)
    with pytest.raises(DeviceBusy, match="ana's laptop for another 60 s") as caught:
        leases.acquire("ben", None)
    assert caught.value.details == {"holder": "ana's laptop", "remaining_s": "60"}
    assert leases.held(lease.lease_id, lease.epoch) == lease


def test_a_lease_that_is_not_renewed_runs_out_and_the_next_epoch_is_higher(leases: Leases, clock: Clock) -> None:
    first = leases.acquire("ana", None)
    clock.now_ns = DEFAULT_TTL_NS
    assert leases.current is None
    second = leases.acquire("ben", None)
    assert second.epoch > first.epoch
    with pytest.raises(StaleEpoch):
        leases.held(first.lease_id, first.epoch)
    with pytest.raises(StaleEpoch):
        leases.renew(first.lease_id, first.epoch)


def test_a_renewed_lease_lives_on(leases: Leases, clock: Clock) -> None:
    lease = leases.acquire("ana", None)
    for _ in range(3):
        clock.now_ns += DEFAULT_TTL_NS - 1
        leases.renew(lease.lease_id, lease.epoch)
    clock.now_ns += DEFAULT_TTL_NS
    with pytest.raises(LeaseNotFound):
        leases.renew(lease.lease_id, lease.epoch)


def test_the_epoch_outlives_a_restart(tmp_path: Path) -> None:
    epochs = []
    for _ in range(2):
        registry = Registry(tmp_path / "agent.sqlite")
        epochs.append(Leases(registry).acquire("ana", None).epoch)
        registry.close()
    assert epochs[1] == epochs[0] + 1


def test_a_lease_given_back_frees_the_device(leases: Leases) -> None:
    leases.release(leases.acquire("ana", None).lease_id)
    leases.release("unknown")
    leases.acquire("ben", None)


@pytest.mark.parametrize("ttl_ns", [1, 10**9, 10**12])
def test_lives_out_of_range_are_refused(leases: Leases, ttl_ns: int) -> None:
    with pytest.raises(InvalidArgument, match="5 to 600 s"):
        leases.acquire("ana", ttl_ns)


@pytest.mark.parametrize("holder", ["a" * 129, "ana\nlaptop", "\x1b[31mana"])
def test_a_holder_that_would_spoil_a_terminal_is_refused(leases: Leases, holder: str) -> None:
    with pytest.raises(InvalidArgument, match="printable"):
        leases.acquire(holder, None)
    assert leases.current is None


def test_every_change_is_told(leases: Leases) -> None:
    told: list[float] = []
    leases.on_change = lambda: told.append(leases.left_s)
    lease = leases.acquire("ana", None)
    leases.renew(lease.lease_id, lease.epoch)
    leases.release(lease.lease_id)
    leases.release(lease.lease_id)
    assert told == [60.0, 60.0, 0.0]
