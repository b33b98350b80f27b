"""Measuring a device's roofline: its peak rates, as two small models reach them in ordinary runs."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backbench.controller.analysis.latency import spans_ns
from backbench.controller.client import AgentClient
from backbench.controller.client.uploads import Upload
from backbench.controller.operations.devices import client_of, contact
from backbench.controller.operations.follow import follow
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.reservation import Reservation
from backbench.controller.operations.roofline_models import (
    RooflineModel,
    Sizes,
    compute_bound,
    memory_bound,
    tensor_bytes_for,
)
from backbench.controller.operations.stop import Stop
from backbench.controller.push import push
from backbench.controller.store import DeviceRoofline, RunRecord, Store
from backbench.domain.artifact import ArtifactKind
from backbench.domain.device import Device
from backbench.domain.errors import AgentUnreachable, BackbenchError, BackendUnavailable, Unreachable
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import SECOND_NS, BackendSpec, InputSpec, ModelRef, RunSpec, RunState, Scenario

_TIMEOUT_S = 600
_PRECISION = "fp32"
_DEFAULT_SIZES = Sizes()


def measure_roofline(
    store: Store,
    name: str,
    observer: Observer,
    stop: Stop,
    *,
    insecure: bool = False,
    backend: str = "onnxruntime",
    sizes: Sizes = _DEFAULT_SIZES,
    wait: bool = True,
) -> DeviceRoofline | None:
    """Measure the device's peak rates and keep them; None when `stop` was requested. The runs do not stay in the store.

    Each rate is that of the fastest frame. The device is reserved for both; without `wait` one that somebody else uses
    is an error. Raises DeviceNotFound, AgentUnreachable and whatever the device refuses.
    """
    record = store.device(name)
    with (
        client_of(store, record, insecure) as client,
        Reservation(client, name, observer, wait=wait) as held,
        tempfile.TemporaryDirectory(prefix="backbench-roofline-") as folder,
    ):
        device = contact(store, record, client)
        models = _models(sizes, device)
        digests = push(client, _uploads(models, Path(folder)), observer.pushing)
        measurement = _Measurement(store, client, held, name, device, observer, stop)
        found: list[_Rate] = []
        for place, (model, sha256) in enumerate(zip(models, digests, strict=True), start=1):
            spec = _spec(model, sha256, backend, sizes)
            rate = None if stop.requested else measurement.rate(model, spec, place)
            if rate is None:
                return None
            found.append(rate)
    compute, memory = found
    roofline = DeviceRoofline(
        peak_flops_per_s=compute.per_s,
        peak_bytes_per_s=memory.per_s,
        measured_unix_ns=time.time_ns(),
        backend=backend,
        precision=_PRECISION,
        threads=compute.threads,
    )
    store.put_roofline(name, roofline)
    return roofline


@dataclass(frozen=True, slots=True)
class _Rate:
    per_s: float
    threads: int | None


class _Measurement:
    """Runs on one device that leave nothing behind, here or there, but the models."""

    def __init__(
        self,
        store: Store,
        client: AgentClient,
        reservation: Reservation,
        name: str,
        device: Device,
        observer: Observer,
        stop: Stop,
    ) -> None:
        self._store = store
        self._client = client
        self._reservation = reservation
        self._name = name
        self._device = device
        self._observer = observer
        self._stop = stop

    def rate(self, model: RooflineModel, spec: RunSpec, place: int) -> _Rate | None:
        """What the fastest frame of a run does in a second; None when the run was cancelled."""
        self._reservation.acquire()
        self._store.create_run(spec, self._name, self._device, budgets=())
        try:
            record = self._followed(spec, place)
            return None if record.state is RunState.CANCELLED else self._read(model, record)
        except Unreachable as error:
            raise AgentUnreachable(
                f"{self._name} was lost while its roofline was measured ({error.message.partition(';')[0]});"
                f" measure again: backbench device show {self._name} --roofline"
            ) from error
        finally:
            self._store.remove_run(spec.run_id)
            with contextlib.suppress(BackbenchError):
                self._client.delete_run(spec.run_id)

    def _followed(self, spec: RunSpec, place: int) -> RunRecord:
        with self._stop.calling(partial(self._cancel, spec.run_id)):
            with self._store.log(spec.run_id):  # nobody is to find it missing on the device before it is there
                self._reservation.submit(spec)
            self._observer.started(spec, place, 2)
            self._stop.again()
            try:
                return follow(self._store, self._client, spec.run_id, self._observer.happened, self._observer.cut)
            finally:
                self._observer.ended()

    def _read(self, model: RooflineModel, record: RunRecord) -> _Rate:
        document, backend = record.document or {}, record.spec.backend.name
        if record.state is not RunState.DONE:
            failure = document.get("failure") or {"message": f"the run is {record.state.value}"}
            raise BackendUnavailable(
                f"{self._name} cannot run {model.name} on {backend}, so it has no roofline: {failure['message']}"
            )
        compute = spans_ns(self._store.frame_columns(record.run_id))["compute"]
        if compute is None:
            raise BackendUnavailable(f"{backend} on {self._name} tells no compute times, so it has no roofline")
        threads = document["contract"].get("threads")
        fastest_ns = min(int(sequence.min()) for sequence in compute if len(sequence))
        return _Rate(model.work / (fastest_ns / SECOND_NS), None if threads is None else int(threads))

    def _cancel(self, run_id: str) -> None:
        self._observer.note("stopping the run on the device; interrupt again to leave at once")
        with contextlib.suppress(BackbenchError, ValueError):  # ValueError: the client was closed meanwhile
            self._client.cancel_run(run_id)


def _models(sizes: Sizes, device: Device) -> tuple[RooflineModel, RooflineModel]:
    tensor_bytes = sizes.tensor_bytes or tensor_bytes_for(device.identity.memory_bytes)
    return compute_bound(sizes), memory_bound(sizes, tensor_bytes)


def _uploads(models: Sequence[RooflineModel], folder: Path) -> list[Upload]:
    uploads = []
    for model in models:
        path = folder / f"{model.name}.onnx"
        path.write_bytes(model.model.SerializeToString(deterministic=True))
        kind = ArtifactKind.SKELETON if model.source == "skeleton" else ArtifactKind.MODEL
        uploads.append(Upload(path, kind, model.name))
    return uploads


def _spec(model: RooflineModel, sha256: str, backend: str, sizes: Sizes) -> RunSpec:
    return RunSpec(
        run_id=new_run_id(),
        model=ModelRef(model.name, sha256, model.source, _PRECISION),
        height=model.side,
        width=model.side,
        backend=BackendSpec(backend),
        scenario=Scenario(frame_count=sizes.frames, warmup_frame_count=sizes.warmup),
        inputs=InputSpec(synthetic_count=1),
        memory_pass=False,
        telemetry_rate_hz=0.0,
        run_timeout_ns=_TIMEOUT_S * SECOND_NS,
    )
