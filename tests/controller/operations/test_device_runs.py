"""Whose runs are whose."""

from __future__ import annotations

from typing import cast

from backbench.controller.client import AgentClient
from backbench.controller.operations.device_runs import runs_on, take_in
from backbench.controller.security import Pki
from backbench.controller.store import Store
from backbench.domain.device import Device, DeviceIdentity, Limits
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, Owner, Run, RunSpec, RunState

DEVICE = Device("d", DeviceIdentity(), (), (), Limits(), "0", 4, 1, "i")


class Scripted:
    """Stands for a client of a device that has these runs."""

    def __init__(self, tls: bool, *owners: Owner) -> None:
        self.tls = tls
        self.runs = tuple(
            Run(RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8), RunState.DONE, 77, owner=owner)
            for owner in owners
        )

    def list_runs(self) -> tuple[Run, ...]:
        return self.runs


def mine(store: Store, scripted: Scripted) -> list[bool]:
    return [each.mine for each in runs_on(store, cast("AgentClient", scripted), "pi5")]


def test_a_run_is_mine_that_was_submitted_with_my_certificate(store: Store) -> None:
    Pki(store.root).init()
    identity = Pki(store.root).identity()
    assert identity is not None
    me = Owner(identity.name, identity.fleet_id)
    others = (Owner("alice", identity.fleet_id), Owner(identity.name, "another-fleet"), Owner("local"))
    assert mine(store, Scripted(True, me, *others)) == [True, False, False, False]


def test_in_plain_text_a_run_is_mine_that_my_store_knows(store: Store) -> None:
    scripted = Scripted(False, Owner("local"), Owner("local"))
    record = take_in(store, "pi5", DEVICE, scripted.runs[1])
    assert mine(store, scripted) == [False, True]
    assert [each.here for each in runs_on(store, cast("AgentClient", scripted), "pi5")] == [None, False]
    assert (record.created_unix_ns, record.budgets, record.spec) == (77, (), scripted.runs[1].spec)
