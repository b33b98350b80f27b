"""Which of the waiting runs goes next: the lease holder's first, then by priority, then by arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backbench.domain.errors import QueueFull
from backbench.domain.run import Owner, Priority, RunSpec

GROUP_WAIT_S = 10.0
"""How long the runs of a group wait for those of it that are not submitted yet."""
_CLASSES = 2 * len(Priority)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run in the queue, the lease under which it was submitted ("" for none), and since when it waits."""

    spec: RunSpec
    owner: Owner
    lease_id: str
    since_s: float


class RunQueue:
    """At most `capacity` runs of each kind: so nobody's nightly runs take the places of who waits for an answer.

    The methods are told the lease that lives now, "" for none; while one lives, only the runs under it may go.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiting: list[Waiting] = []

    def __contains__(self, run_id: str) -> bool:
        return any(each.spec.run_id == run_id for each in self._waiting)

    def check(self, waiting: Waiting, lease_id: str) -> None:
        """Raises QueueFull when there is no place for this one."""
        alike = sum(_rank(each, lease_id) == _rank(waiting, lease_id) for each in self._waiting)
        if alike >= self._capacity or len(self._waiting) >= _CLASSES * self._capacity:
            raise QueueFull(f"{alike} runs are waiting already; try again when one has ended")

    def add(self, waiting: Waiting) -> None:
        """Put a run behind those like it."""
        self._waiting.append(waiting)

    def remove(self, run_id: str) -> None:
        """Take a run out; no error when it is not there."""
        self._waiting = [each for each in self._waiting if each.spec.run_id != run_id]

    def order(self, lease_id: str) -> Sequence[Waiting]:
        """All of them as they would go if nothing came or went; the runs of a group together."""
        by_rank = sorted(self._waiting, key=lambda each: _rank(each, lease_id))
        groups: dict[object, list[Waiting]] = {}
        for each in by_rank:
            groups.setdefault(_group(each, lease_id), []).append(each)
        return [each for members in groups.values() for each in members]

    def head(self, lease_id: str, now_s: float) -> tuple[Sequence[Waiting], float | None]:
        """The runs that go now, one or those of a group; or none, and how long until that may change by itself."""
        order = self.order(lease_id)
        if not order or (lease_id and order[0].lease_id != lease_id):
            return (), None
        group = _group(order[0], lease_id)
        members = [each for each in order if _group(each, lease_id) == group]
        wait_s = max(each.since_s for each in members) + GROUP_WAIT_S - now_s
        if len(members) < order[0].spec.group_size and wait_s > 0:
            return (), wait_s
        return members, None


def _rank(waiting: Waiting, lease_id: str) -> tuple[bool, bool]:
    return (not lease_id or waiting.lease_id != lease_id, waiting.spec.priority is Priority.NIGHTLY)


def _group(waiting: Waiting, lease_id: str) -> object:
    """What is the same for runs that go together; nobody's run joins a group of somebody else."""
    spec = waiting.spec
    return (waiting.owner, spec.group_id, _rank(waiting, lease_id)[0]) if spec.group_id else spec.run_id
