"""Fetching every finished run that a device still has and this store has not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from backbench.controller.client import AgentClient
from backbench.controller.operations.device_runs import DeviceRun, runs_on, take_in
from backbench.controller.operations.devices import client_of, contact
from backbench.controller.operations.follow import acknowledge, follow
from backbench.controller.operations.observer import Observer
from backbench.controller.store import RunRecord, Store
from backbench.domain.device import Device
from backbench.domain.errors import BackbenchError, NotAllowed, RunNotFound, StoreUnusable
from backbench.domain.run import RunSpec

_PATIENCE_S = 60.0


@dataclass
class Collected:
    """What was fetched from one device, how many finished runs of others were left there, and what went wrong.

    `left_out` counts the runs that should have been fetched and could not be; a line was said about each.
    """

    device: str
    records: list[RunRecord] = field(default_factory=list)
    of_others: int = 0
    going_on: int = 0
    left_out: int = 0
    error: BackbenchError | None = None


def collect(
    store: Store, names: Sequence[str], observer: Observer, *, everyone: bool = False, insecure: bool = False
) -> list[Collected]:
    """Fetch and acknowledge what is finished on each device, however it ended; `everyone`: others' runs too.

    What is here already is not fetched again. A run of this store that its device does not have is ended here. Raises
    DeviceNotFound; a device that cannot be asked is an error of its part alone.
    """
    for name in names:
        store.device(name)
    return [_Collector(store, name, observer, everyone).collected(insecure) for name in names]


class _Collector:
    def __init__(self, store: Store, name: str, observer: Observer, everyone: bool) -> None:
        self._store = store
        self._observer = observer
        self._everyone = everyone
        self._collected = Collected(name)

    def collected(self, insecure: bool) -> Collected:
        record = self._store.device(self._collected.device)
        try:
            with client_of(self._store, record, insecure) as client:
                self._from(client, contact(self._store, record, client))
        except BackbenchError as error:
            self._collected.error = error
        return self._collected

    def _from(self, client: AgentClient, device: Device) -> None:
        name = self._collected.device
        on_device = runs_on(self._store, client, name)
        wanted = [each for each in reversed(on_device) if self._wants(client, each)]
        there = {each.run.spec.run_id for each in on_device}
        missing = [record.spec for record in self._store.unfinished(name) if record.run_id not in there]
        count = len(wanted) + len(missing)
        for place, each in enumerate(wanted, 1):
            if each.here is None:
                take_in(self._store, name, device, each.run)
            self._fetch(client, each.run.spec, place, count)
        for place, spec in enumerate(missing, len(wanted) + 1):
            self._fetch(client, spec, place, count)

    def _wants(self, client: AgentClient, each: DeviceRun) -> bool:
        if not each.run.state.ended:
            self._collected.going_on += 1
            return False
        if each.here:
            self._acknowledge(client, each)
            return False
        if not each.mine and not self._everyone:
            self._collected.of_others += 1
            return False
        return True

    def _acknowledge(self, client: AgentClient, each: DeviceRun) -> None:
        """Of a run that is here; the device may not have heard so."""
        if not each.run.collected:
            try:
                acknowledge(client, each.run.spec.run_id, each.run.last_sequence)
            except (NotAllowed, RunNotFound) as error:
                self._observer.note(f"run {each.run.spec.run_id} is here, but cannot be acknowledged: {error.message}")

    def _fetch(self, client: AgentClient, spec: RunSpec, place: int, count: int) -> None:
        self._observer.started(spec, place, count)
        happened, cut = self._observer.happened, self._observer.cut
        try:
            self._collected.records.append(follow(self._store, client, spec.run_id, happened, cut, _PATIENCE_S))
        except (StoreUnusable, RunNotFound) as error:
            self._observer.note(f"run {spec.run_id} is left out: {error.message}")
            if "holder" in error.details:  # another process is at it
                self._collected.going_on += 1
            else:
                self._collected.left_out += 1
        finally:
            self._observer.ended()
