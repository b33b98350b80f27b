"""Profiling models on a device: push, run, follow, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from backbench.controller.client import AgentClient
from backbench.controller.operations.devices import checked_device, client_of
from backbench.controller.operations.follow import follow
from backbench.controller.operations.making import ModelMaker
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import (
    Plan,
    check_device,
    check_files,
    make_ready,
    newest_opset,
    specifications,
    uploads,
)
from backbench.controller.operations.stop import Stop
from backbench.controller.push import push
from backbench.controller.store import RunRecord, Store
from backbench.domain.device import Device
from backbench.domain.errors import BackbenchError, Unreachable
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import RunSpec

Manifest = Mapping[str, Any] | None


def profile(store: Store, plan: Plan, observer: Observer, stop: Stop, insecure: bool = False) -> list[RunRecord]:
    """The finished runs, one a model; fewer when `stop` was requested. A run that failed is among them.

    Raises DeviceNotFound, AgentUnreachable and whatever the device refuses, before anything is sent where possible.
    """
    record = store.device(plan.request.device)
    with client_of(record, insecure) as client:
        device = checked_device(client)
        check_device(plan, device)
        store.put_device(replace(record, device=device))
        for model in plan.models:
            if model.preprocess_assumed:
                observer.note(f"{model.name} does not state its preprocessing; ImageNet's usual one is assumed")
        maker = ModelMaker(store.root / "models", observer.step)
        ready = make_ready(plan, maker, newest_opset(plan, device))
        observer.step("")
        files = uploads(plan, ready)
        check_files([upload.path for upload in files], device)
        digests = dict(zip((upload.path for upload in files), push(client, files, observer.pushing), strict=True))
        specs = specifications(plan, ready, digests)
        group = new_run_id() if len(specs) > 1 else ""
        measurement = _Measurement(store, client, plan, device, group, observer, stop)
        return measurement.all(tuple(zip(specs, (each.model.manifest for each in ready), strict=True)))


class _Measurement:
    """The runs of one plan on one device."""

    def __init__(
        self,
        store: Store,
        client: AgentClient,
        plan: Plan,
        device: Device,
        group: str,
        observer: Observer,
        stop: Stop,
    ) -> None:
        self._store = store
        self._client = client
        self._plan = plan
        self._device = device
        self._group = group
        self._observer = observer
        self._stop = stop

    def all(self, runs: Sequence[tuple[RunSpec, Manifest]]) -> list[RunRecord]:
        records: list[RunRecord] = []
        for place, (spec, manifest) in enumerate(runs, start=1):
            if not self._stop.requested:
                records.append(self._one(spec, manifest, place, len(runs)))
        return records

    def _one(self, spec: RunSpec, manifest: Manifest, place: int, count: int) -> RunRecord:
        with self._stop.calling(partial(self._cancel, spec.run_id)):
            self._submit(spec, manifest)
            self._observer.started(spec, place, count)
            self._stop.again()
            try:
                return follow(self._store, self._client, spec.run_id, self._observer.happened, self._observer.cut)
            finally:
                self._observer.ended()

    def _submit(self, spec: RunSpec, manifest: Manifest) -> None:
        # The store knows the run before the device does: a run is never lost, whichever side stops in between.
        self._store.create_run(
            spec,
            device_name=self._plan.request.device,
            device=self._device,
            budgets=tuple(budget.text for budget in self._plan.budgets),
            group=self._group,
            model_facts=manifest,
        )
        try:
            self._client.submit_run(spec)
        except Unreachable:
            self._observer.note(f"run {spec.run_id} may have reached the device: backbench run follow {spec.run_id}")
            raise
        except BackbenchError:
            self._store.remove_run(spec.run_id)
            raise

    def _cancel(self, run_id: str) -> None:
        self._observer.note("stopping the run on the device; interrupt again to leave at once")
        try:
            self._client.cancel_run(run_id)
        except (BackbenchError, ValueError) as error:  # ValueError: the client was closed meanwhile
            self._observer.note(f"the run could not be stopped: {error}")
