"""Which run goes next, whatever comes, goes, is leased and runs out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backbench.agent.leases import Leases
from backbench.agent.registry import Registry
from backbench.agent.run_queue import GROUP_WAIT_S, RunQueue, Waiting
from backbench.domain.errors import DeviceBusy, QueueFull
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import SECOND_NS, Lease, ModelRef, Owner, Priority, RunSpec

OWNERS = (Owner("ana", "lab"), Owner("ben", "lab"))
CAPACITY = 3


def waiting(
    lease_id: str = "",
    priority: Priority = Priority.INTERACTIVE,
    owner: Owner = OWNERS[0],
    group: str = "",
    since_s: float = 0.0,
) -> Waiting:
    model = ModelRef("m", "a" * 64, "file")
    spec = RunSpec(new_run_id(), model, 8, 8, priority=priority, group_id=group, group_size=2 if group else 0)
    return Waiting(spec, owner, lease_id, since_s)


def test_an_empty_queue_has_no_head_and_nothing_to_wait_for() -> None:
    assert RunQueue(CAPACITY).head("", 0.0) == ((), None)


def test_an_incomplete_group_waits_from_when_its_newest_member_came() -> None:
    queue = RunQueue(CAPACITY)
    queue.add(waiting(group="g", since_s=100.0))
    assert queue.head("", 103.0) == ((), GROUP_WAIT_S - 3.0)
    members, wait_s = queue.head("", 100.0 + GROUP_WAIT_S)
    assert len(members) == 1
    assert wait_s is None


def test_a_group_goes_together_wherever_its_members_stand() -> None:
    queue = RunQueue(CAPACITY)
    first, between, second = waiting(group="g"), waiting(), waiting(group="g")
    for each in (first, between, second):
        queue.add(each)
    assert queue.head("", 0.0) == ([first, second], None)
    assert queue.order("") == [first, second, between]


def test_the_holder_of_a_lease_finds_a_place_in_a_full_queue() -> None:
    queue = RunQueue(CAPACITY)
    for _ in range(CAPACITY):
        queue.add(waiting())
    queue.check(waiting("mine"), "mine")
    with pytest.raises(QueueFull, match="try again when one has ended"):
        queue.check(waiting(), "mine")


class Device(RuleBasedStateMachine):
    """A queue and its leases, with a model of what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.registry = Registry(Path(self.folder.name) / "agent.sqlite")
        self.registry._db.execute("PRAGMA synchronous = OFF")
        self.now_ns = 0
        self.leases = Leases(self.registry, lambda: self.now_ns)
        self.queue = RunQueue(CAPACITY)
        self.submitted: list[Waiting] = []
        self.running: list[Waiting] = []
        self.ended: set[str] = set()
        self.held: list[Lease] = []

    def teardown(self) -> None:
        self.registry.close()
        self.folder.cleanup()

    @rule(
        under_lease=st.booleans(),
        priority=st.sampled_from(Priority),
        owner=st.sampled_from(OWNERS),
        group=st.sampled_from(["", "", "g", "h"]),
    )
    def submit(self, under_lease: bool, priority: Priority, owner: Owner, group: str) -> None:
        lease_id = self.leases.current_id if under_lease else ""
        new = waiting(lease_id, priority, owner, group, self.now_ns / SECOND_NS)
        before = [each.spec.run_id for each in self.queue.order(self.leases.current_id)]
        try:
            self.queue.check(new, self.leases.current_id)
        except QueueFull:
            assert len(before) >= CAPACITY
            return
        self.queue.add(new)
        self.submitted.append(new)

    @rule(seconds=st.sampled_from([1, 5, 70]))
    def time_passes(self, seconds: int) -> None:
        self.now_ns += seconds * SECOND_NS

    @rule()
    def acquire(self) -> None:
        lives = self.leases.current
        try:
            lease = self.leases.acquire("somebody", None)
        except DeviceBusy:
            assert lives is not None
            return
        assert lives is None
        assert all(lease.epoch > each.epoch for each in self.held)
        self.held.append(lease)

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        self.leases.release(self.held[-1].lease_id)

    @precondition(lambda self: not self.running)
    @rule()
    def next_one_goes(self) -> None:
        lease_id = self.leases.current_id
        order = self.queue.order(lease_id)
        members, wait_s = self.queue.head(lease_id, self.now_ns / SECOND_NS)
        eligible = [each for each in order if not lease_id or each.lease_id == lease_id]
        if not members:
            assert wait_s is not None or not eligible
            return
        self.first_is_right(members[0], eligible)
        assert all(member in eligible for member in members)
        assert len({(member.owner, member.spec.group_id) for member in members}) == 1
        assert len(members) == 1 or members[0].spec.group_id
        for member in members:
            self.queue.remove(member.spec.run_id)
            self.running.append(member)

    def first_is_right(self, first: Waiting, eligible: list[Waiting]) -> None:
        """Nobody of the same kind who came before is still waiting; nobody interactive waits for a nightly run."""
        came = [each for each in self.submitted if each in eligible]
        interactive = [each for each in came if each.spec.priority is Priority.INTERACTIVE]
        assert first == (interactive or came)[0]

    @precondition(lambda self: self.running)
    @rule()
    def one_ends(self) -> None:
        self.ended.add(self.running.pop().spec.run_id)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.submitted)).spec.run_id
        if run_id in self.queue:
            self.queue.remove(run_id)
            self.ended.add(run_id)

    @invariant()
    def no_run_is_lost_or_doubled(self) -> None:
        places = [each.spec.run_id for each in self.queue.order(self.leases.current_id)]
        places += [each.spec.run_id for each in self.running]
        assert len(set(places)) == len(places)
        assert {*places, *self.ended} == {each.spec.run_id for each in self.submitted}

    @invariant()
    def what_waits_is_bounded(self) -> None:
        assert len(self.queue.order(self.leases.current_id)) <= 4 * CAPACITY

    @invariant()
    def the_holders_runs_come_first(self) -> None:
        lease_id = self.leases.current_id
        if lease_id:
            strangers = [each.lease_id != lease_id for each in self.queue.order(lease_id)]
            assert strangers == sorted(strangers)


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
