"""A roofline measured on a real agent, with models that are small enough for a test."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx.helper
import pytest

from backbench.controller.client import AgentClient
from backbench.controller.operations import roofline
from backbench.controller.operations.devices import add_device
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.roofline import measure_roofline
from backbench.controller.operations.roofline_models import RooflineModel, Sizes, memory_bound
from backbench.controller.operations.stop import Stop
from backbench.controller.store import Store
from backbench.domain.errors import AgentUnreachable, BackendUnavailable, DeviceNotFound, UnknownBackend
from backbench.domain.event import RunEvent
from backbench.domain.frame import FrameBlock
from backbench.domain.run import RunSpec

TINY = Sizes(channels=32, side=8, layers=2, tensor_bytes=1 << 20, steps=2, frames=8, warmup=1)


@pytest.fixture
def here(store: Store, address: str) -> Store:
    add_device(store, "here", address)
    return store


class Recorder(Observer):
    def __init__(self, stop: Stop | None = None) -> None:
        self.started_specs: list[RunSpec] = []
        self._stop = stop

    def started(self, spec: RunSpec, place: int, count: int) -> None:
        assert (place, count) == (len(self.started_specs) + 1, 2)
        self.started_specs.append(spec)

    def happened(self, event: RunEvent) -> None:
        if self._stop is not None and isinstance(event.event, FrameBlock):
            self._stop.request()


def runs_on(address: str) -> set[str]:
    with AgentClient(address) as client:
        return {run.spec.run_id for run in client.list_runs()}


def test_both_peaks_are_measured_and_kept_and_the_runs_are_gone(here: Store, address: str) -> None:
    before, observer = runs_on(address), Recorder()
    measured = measure_roofline(here, "here", observer, Stop(), sizes=TINY)
    assert measured is not None
    assert measured == here.roofline("here")
    assert 1e6 < measured.peak_flops_per_s < 1e14
    assert 1e6 < measured.peak_bytes_per_s < 1e13
    assert (measured.backend, measured.precision) == ("onnxruntime", "fp32")
    assert measured.threads is not None
    assert measured.threads >= 1
    assert [spec.model.name for spec in observer.started_specs] == ["roofline-compute", "roofline-memory"]
    assert here.runs() == ()
    assert not list((here.root / "runs").glob("*"))
    assert runs_on(address) == before


def test_a_stop_ends_the_run_and_keeps_the_older_roofline(here: Store, address: str) -> None:
    measured = measure_roofline(here, "here", Observer(), Stop(), sizes=TINY)
    before, stop = runs_on(address), Stop()
    endless = replace(TINY, frames=1_000_000)
    assert measure_roofline(here, "here", Recorder(stop), stop, sizes=endless) is None
    assert stop.requested
    assert here.roofline("here") == measured
    assert here.runs() == ()
    assert runs_on(address) == before


def unknown_operator(sizes: Sizes) -> RooflineModel:
    model = memory_bound(sizes, 1 << 10)
    model.model.graph.node[0].op_type, model.model.graph.node[0].domain = "NoSuchOperator", "nobody"
    model.model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    return replace(model, name="roofline-compute")


def test_what_the_device_cannot_run_is_said_in_one_line_and_leaves_nothing(
    here: Store, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = runs_on(address)
    with pytest.raises(UnknownBackend):
        measure_roofline(here, "here", Observer(), Stop(), backend="tflite", sizes=TINY)
    monkeypatch.setattr(roofline, "compute_bound", unknown_operator)
    with pytest.raises(BackendUnavailable, match=r"here cannot run roofline-compute on onnxruntime") as caught:
        measure_roofline(here, "here", Observer(), Stop(), sizes=TINY)
    assert "\n" not in str(caught.value)
    assert here.roofline("here") is None
    assert here.runs() == ()
    assert runs_on(address) == before


def test_a_device_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(DeviceNotFound, match="nowhere"):
        measure_roofline(store, "nowhere", Observer(), Stop(), sizes=TINY)
    add_device(store, "gone", "127.0.0.1:1", check=False)
    with pytest.raises(AgentUnreachable):
        measure_roofline(store, "gone", Observer(), Stop(), sizes=TINY)
