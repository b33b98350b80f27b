"""Profiling on a real agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.controller.client import AgentClient
from backbench.controller.operations.devices import add_device
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import ProfileRequest, plan_profile
from backbench.controller.operations.profile import profile
from backbench.controller.operations.stop import Stop
from backbench.controller.store import Store
from backbench.domain.errors import AgentUnreachable, DeviceBusy, DeviceNotFound, InvalidArgument, UnknownBackend
from backbench.domain.event import Progress, RunEvent
from backbench.domain.frame import FrameBlock
from backbench.domain.run import RunSpec, RunState

MODEL = "mobilenetv3_large_100"
QUICK = ProfileRequest((MODEL,), "here", size="32", frames=30, warmup=2, memory_pass=False)


@pytest.fixture
def here(store: Store, address: str) -> Store:
    add_device(store, "here", address)
    return store


class Recorder(Observer):
    def __init__(self, look: Callable[[RunEvent], None] | None = None) -> None:
        self.notes: list[str] = []
        self.steps: list[str] = []
        self._look = look

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, spec: RunSpec, place: int, count: int) -> None:  # noqa: ARG002
        self.steps.append(f"started {place}/{count}")

    def happened(self, event: RunEvent) -> None:
        if self._look is not None:
            self._look(event)

    def ended(self) -> None:
        self.steps.append("ended")


def test_several_models_run_one_after_the_other_and_belong_together(here: Store, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(image)
    observer = Recorder()
    request = replace(QUICK, models=(MODEL, MODEL), inputs=image, budgets=("max<=10s",), name="pair")
    records = profile(here, plan_profile(request), observer, Stop())
    assert observer.steps == ["started 1/2", "ended", "started 2/2", "ended"]
    assert [record.state for record in records] == [RunState.DONE] * 2
    assert records[0].group
    assert records[0].group == records[1].group
    assert [record.spec.inputs.images[0].name for record in records] == ["image.png"] * 2
    assert all(record.document and record.document["verdict"] == "pass" for record in records)
    assert records[0].spec.labels["name"] == "pair"


def test_a_stop_ends_the_run_on_the_device_and_keeps_what_was_measured(here: Store, address: str) -> None:
    stop = Stop()

    def look(event: RunEvent) -> None:
        if isinstance(event.event, FrameBlock):
            stop.request()

    request = replace(QUICK, models=(MODEL, "resnet50"), frames=1_000_000)
    observer = Recorder(look)
    records = profile(here, plan_profile(request), observer, stop)
    assert [record.state for record in records] == [RunState.CANCELLED]
    assert records[0].document
    assert 0 < records[0].document["frames"]["completed"] < 1_000_000
    assert observer.notes == ["stopping the run on the device; interrupt again to leave at once"]
    with AgentClient(address) as client:
        assert client.get_run(records[0].run_id).state is RunState.CANCELLED


def test_what_is_refused_leaves_nothing_behind(here: Store, address: str) -> None:
    with AgentClient(address) as client:
        before = client.list_artifacts(), client.list_runs()
        for change, error in (
            ({"device": "nowhere"}, DeviceNotFound),
            ({"backends": ("tflite",)}, UnknownBackend),
            ({"frames": 10**9}, Exception),
        ):
            plan = plan_profile(replace(QUICK, models=("resnet50",), **change))
            with pytest.raises(error):
                profile(here, plan, Observer(), Stop())
        assert (client.list_artifacts(), client.list_runs()) == before
    assert here.runs() == ()


def test_a_run_waits_while_somebody_else_has_the_device_and_who_it_is_is_seen(here: Store, address: str) -> None:
    with AgentClient(address) as other:
        lease = other.acquire_lease("alice@laptop")
        holders: list[str] = []

        def look(event: RunEvent) -> None:
            if isinstance(event.event, Progress) and event.event.holder:
                holders.append(event.event.holder)
                other.release_lease(lease)

        (record,) = profile(here, plan_profile(QUICK), Recorder(look), Stop())
    assert holders[0] == "alice@laptop"
    assert record.state is RunState.DONE


def test_models_that_follow_each_other_are_undisturbed_by_others(here: Store, address: str) -> None:
    with AgentClient(address) as other:
        refused: list[str] = []

        def look(event: RunEvent) -> None:
            if isinstance(event.event, FrameBlock):
                with pytest.raises(DeviceBusy) as caught:
                    other.acquire_lease("alice@laptop")
                refused.append(caught.value.message)

        plan = plan_profile(replace(QUICK, models=(MODEL, MODEL)))
        assert [record.state for record in profile(here, plan, Recorder(look), Stop())] == [RunState.DONE] * 2
        assert refused
        other.release_lease(other.acquire_lease("alice@laptop"))


def test_a_device_is_added_only_when_its_agent_answers(store: Store, address: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be a device name"):
        add_device(store, "a b", address)
    with pytest.raises(AgentUnreachable):
        add_device(store, "gone", "127.0.0.1:1")
    assert add_device(store, "gone", "127.0.0.1:1", check=False).device is None
    record = add_device(store, "here", address)
    assert record.device is not None
    assert add_device(store, "here", address).added_unix_ns == record.added_unix_ns
    with pytest.raises(InvalidArgument, match="backbench device remove here"):
        add_device(store, "here", "127.0.0.1:1")
    assert {each.name for each in store.devices()} == {"gone", "here"}
