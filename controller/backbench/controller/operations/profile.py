"""Profiling models on a device: push, run, follow or leave; one after the other, or in turns, launch by launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from backbench.controller.client import AgentClient
from backbench.controller.operations.backends import set_aside
from backbench.controller.operations.device_check import check_device, check_files, check_queue
from backbench.controller.operations.devices import client_of, contact
from backbench.controller.operations.follow import follow
from backbench.controller.operations.making import ModelMaker
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import Plan, make_ready, routes_of, specifications, uploads
from backbench.controller.operations.reservation import Reservation
from backbench.controller.operations.stop import Stop
from backbench.controller.push import push
from backbench.controller.store import RunRecord, Store
from backbench.domain.device import Device
from backbench.domain.errors import (
    BackbenchError,
    Busy,
    Exhausted,
    InvalidRequest,
    NotAllowed,
    NotFound,
    NotReady,
    Unreachable,
)
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import Run, RunSpec

Manifest = Mapping[str, Any] | None
Change = Callable[[int, RunSpec], RunSpec]
"""What a caller alters in the specification of the nth run, from 0."""
_WITHDRAWAL_S = 10.0
_REFUSALS = (InvalidRequest, NotFound, NotReady, Busy, Exhausted, NotAllowed)
"""Answers to a submission that say that there is no such run on the device; after any other there may be one."""


def profile(
    store: Store,
    plan: Plan,
    observer: Observer,
    stop: Stop,
    insecure: bool = False,
    change: Change | None = None,
    *,
    wait: bool = True,
    reservation: Reservation | None = None,
) -> list[RunRecord]:
    """The finished runs, one a model and backend; fewer when `stop` was requested. A run that failed is among them.

    Several runs of several launches take turns, launch by launch, on a device that can do that. Runs that follow
    each other without that have the device reserved for them, unless `reservation` is there already; without `wait` a
    device that somebody else uses is an error. Raises DeviceNotFound, AgentUnreachable and whatever the device
    refuses, before anything is sent where possible.
    """
    record = store.device(plan.request.device)
    with client_of(store, record, insecure) as client:
        device = contact(store, record, client)
        check_device(plan, device)
        specs, manifests = _made_ready(store, client, plan, device, observer, change)
        parts = in_turns(specs, device)
        measurement = _Measurement(store, client, plan, device, manifests, observer, stop)
        if reservation is None and (len(parts) > 1 or not wait):
            with Reservation(client, record.name, observer, wait=wait) as own:
                return measurement.all(parts, own)
        return measurement.all(parts, reservation)


def submit(store: Store, plan: Plan, observer: Observer, insecure: bool = False) -> list[Run]:
    """Hand the runs over, one a model and backend, and leave them to the device; as it answered.

    Raises what `profile` does.
    """
    record = store.device(plan.request.device)
    with client_of(store, record, insecure) as client:
        device = contact(store, record, client)
        check_device(plan, device)
        check_queue(plan, device)
        specs, manifests = _made_ready(store, client, plan, device, observer)
        together = [spec for part in in_turns(specs, device) for spec in part]
        return _Measurement(store, client, plan, device, manifests, observer, Stop()).handed_over(together)


def _made_ready(
    store: Store, client: AgentClient, plan: Plan, device: Device, observer: Observer, change: Change | None = None
) -> tuple[tuple[RunSpec, ...], dict[str, Manifest]]:
    """The runs, everything that they need being on the device, and the manifests of their models, by run id."""
    for model in plan.models:
        if model.preprocess_assumed:
            observer.note(f"{model.name} does not state its preprocessing; ImageNet's usual one is assumed")
    maker = ModelMaker(store.root / "models", observer.step)
    found = routes_of(plan, device)
    for line in set_aside(found, plan.options):
        observer.note(line)
    ready = make_ready(plan, found, maker)
    observer.step("")
    files = uploads(plan, ready)
    check_files([upload.path for upload in files], device)
    digests = dict(zip((upload.path for upload in files), push(client, files, observer.pushing), strict=True))
    specs = specifications(plan, ready, digests)
    if change is not None:
        specs = tuple(change(place, spec) for place, spec in enumerate(specs))
    return specs, {spec.run_id: each.model.manifest for spec, each in zip(specs, ready, strict=True)}


def in_turns(specs: Sequence[RunSpec], device: Device) -> list[tuple[RunSpec, ...]]:
    """The runs in parts that are submitted together; the runs of a part have one group id and take turns.

    A part has at most as many runs as may wait on the device. Where a run has one launch, or the device cannot
    interleave, every run is a part of its own, without a group.
    """
    most = max(device.limits.queue_length, 1)
    if "interleave" not in device.features or any(spec.launches < 2 for spec in specs):
        most = 1
    parts = [tuple(specs[start : start + most]) for start in range(0, len(specs), most)]
    return [_grouped(part) if len(part) > 1 else part for part in parts]


def _grouped(part: Sequence[RunSpec]) -> tuple[RunSpec, ...]:
    group_id = new_run_id()
    return tuple(replace(spec, group_id=group_id, group_size=len(part)) for spec in part)


class _Measurement:
    """The runs of one plan on one device; `manifests` are those of their models, by run id."""

    def __init__(
        self,
        store: Store,
        client: AgentClient,
        plan: Plan,
        device: Device,
        manifests: Mapping[str, Manifest],
        observer: Observer,
        stop: Stop,
    ) -> None:
        self._store = store
        self._client = client
        self._plan = plan
        self._device = device
        self._manifests = manifests
        self._observer = observer
        self._stop = stop
        self._count = len(manifests)
        self._label = new_run_id() if self._count > 1 else ""

    def all(self, parts: Sequence[Sequence[RunSpec]], reservation: Reservation | None) -> list[RunRecord]:
        records: list[RunRecord] = []
        for part in parts:
            if not self._stop.requested:
                if reservation is not None:
                    reservation.acquire()
                records += self._together(part, len(records) + 1, reservation)
        return records

    def handed_over(self, specs: Sequence[RunSpec]) -> list[Run]:
        runs: list[Run] = []
        try:
            for spec in specs:
                runs.append(self._submit(spec))
                self._store.set_state(spec.run_id, runs[-1].state)
        except BackbenchError:
            self._withdraw([run.spec.run_id for run in runs])
            raise
        except BaseException:
            self._tell_how_to_follow([run.spec.run_id for run in runs])
            raise
        return runs

    def _together(self, part: Sequence[RunSpec], first_place: int, reservation: Reservation | None) -> list[RunRecord]:
        going_on: list[str] = []
        with self._stop.calling(partial(self._cancel, going_on)):
            try:
                for spec in part:
                    if not self._stop.requested:
                        self._submit(spec, reservation)
                        going_on.append(spec.run_id)
            except BackbenchError:
                self._withdraw(going_on)
                raise
            self._stop.again()
            submitted = part[: len(going_on)]
            try:
                return [self._followed(spec, place, going_on) for place, spec in enumerate(submitted, first_place)]
            except BaseException:
                self._tell_how_to_follow(going_on)
                raise

    def _followed(self, spec: RunSpec, place: int, going_on: list[str]) -> RunRecord:
        self._observer.started(spec, place, self._count)
        try:
            record = follow(self._store, self._client, spec.run_id, self._observer.happened, self._observer.cut)
        finally:
            self._observer.ended()
        going_on.remove(spec.run_id)
        return record

    def _submit(self, spec: RunSpec, reservation: Reservation | None = None) -> Run:
        try:
            with self._store.log(spec.run_id):  # nobody is to find it missing on the device before it is there
                # The store knows the run before the device does: a run is never lost, whichever side stops in between.
                self._store.create_run(
                    spec,
                    device_name=self._plan.request.device,
                    device=self._device,
                    budgets=tuple(budget.text for budget in self._plan.budgets),
                    group=self._label,
                    model_facts=self._manifests[spec.run_id],
                )
                return self._client.submit_run(spec) if reservation is None else reservation.submit(spec)
        except _REFUSALS:
            self._store.remove_run(spec.run_id)
            raise
        except BackbenchError:
            self._observer.note(f"run {spec.run_id} may have reached the device: backbench run follow {spec.run_id}")
            raise

    def _tell_how_to_follow(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            self._observer.note(f"the result of run {run_id}: backbench run follow {run_id[-8:]}")

    def _cancel(self, going_on: Sequence[str]) -> None:
        """Those that wait before the one that is measured, so that none starts when that one ends."""
        run_ids = tuple(reversed(going_on))
        if run_ids:
            self._observer.note("stopping the run on the device; interrupt again to leave at once")
        for run_id in run_ids:
            try:
                self._client.cancel_run(run_id)
            except (BackbenchError, ValueError) as error:  # ValueError: the client was closed meanwhile
                self._observer.note(f"the run could not be stopped: {error}")

    def _withdraw(self, run_ids: Sequence[str]) -> None:
        """Cancel runs whose group will not be complete, and fetch what little they have."""
        reachable = True
        for run_id in reversed(run_ids):
            try:
                if reachable:
                    self._client.cancel_run(run_id)
                    follow(self._store, self._client, run_id, patience_s=_WITHDRAWAL_S)
                    continue
            except BackbenchError as error:
                reachable = not isinstance(error, Unreachable)
            self._observer.note(f"run {run_id} may still be on the device: backbench run cancel {run_id[-8:]}")
