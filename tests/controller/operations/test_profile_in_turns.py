"""Several models with several launches: submitted together, followed one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx.helper
import pytest

from backbench.controller.operations import profile as profile_module
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import ProfileRequest, plan_profile
from backbench.controller.operations.profile import in_turns, profile
from backbench.controller.operations.stop import Stop
from backbench.controller.store import DeviceRecord, Store
from backbench.controller.store import finish as finish_module
from backbench.domain.device import Backend, Device, DeviceIdentity, Limits
from backbench.domain.errors import AgentUnreachable, BackbenchError, DeadlineExceeded, QueueFull, StoreUnusable
from backbench.domain.event import RunEvent, RunResult, StateChange
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import Lease, ModelRef, RunSpec, RunState

DEVICE = replace(
    Device("d", DeviceIdentity(), (Backend("onnxruntime", True),), (), Limits(queue_length=3), "0", 3, 1, "i"),
    features=("launches", "interleave"),
)

LEASE = Lease("a-lease", 1, "me", 60 * 10**9)


class Agent:
    """Stands for client and agent: a run ends when it is watched, cancelled if it was cancelled before."""

    address = "nowhere:1"
    tls = False

    def __init__(self) -> None:
        self.device = DEVICE
        self.room = 100
        self.refusal: BackbenchError = QueueFull("3 runs are waiting already; try again when one has ended")
        self.calls: list[tuple[str, int]] = []
        self.submitted: list[RunSpec] = []
        self.leases: list[Lease | None] = []
        self.released: list[Lease] = []
        self.cancelled: set[str] = set()
        self.all_cancelled = threading.Event()
        self.on_watch: Callable[[], None] = lambda: None

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_device(self) -> Device:
        return self.device

    def find_missing(self, digests: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def submit_run(self, spec: RunSpec, lease: Lease | None = None) -> None:
        if len(self.submitted) == self.room:
            raise self.refusal
        self.submitted.append(spec)
        self.leases.append(lease)
        self._note("submit", spec.run_id)

    def acquire_lease(self, holder: str, ttl_s: float) -> Lease:  # noqa: ARG002
        return LEASE

    def release_lease(self, lease: Lease) -> None:
        self.released.append(lease)

    def watch_run(self, run_id: str, from_sequence: int) -> Iterator[RunEvent]:
        self._note("watch", run_id)
        if from_sequence == 1:
            yield RunEvent(1, 1, 1, StateChange(RunState.RUNNING))
        self.on_watch()
        yield RunEvent(2, 2, 2, RunResult(RunState.CANCELLED if run_id in self.cancelled else RunState.DONE))

    def cancel_run(self, run_id: str) -> None:
        self._note("cancel", run_id)
        if isinstance(self.refusal, AgentUnreachable):
            raise self.refusal
        self.cancelled.add(run_id)
        if len(self.cancelled) == len(self.submitted):
            self.all_cancelled.set()

    def acknowledge_run(self, run_id: str, sequence: int) -> None:
        pass

    def _note(self, call: str, run_id: str) -> None:
        self.calls.append((call, [spec.run_id for spec in self.submitted].index(run_id)))


@pytest.fixture
def agent(store: Store, monkeypatch: pytest.MonkeyPatch) -> Agent:
    agent = Agent()
    monkeypatch.setattr(profile_module, "client_of", lambda store, record, insecure: agent)  # noqa: ARG005
    monkeypatch.setattr(finish_module, "finished_document", _document)
    store.put_device(DeviceRecord("here", "nowhere:1", 1, None))
    return agent


def _document(record: Any, events: Any, *_: Any) -> dict[str, Any]:  # noqa: ARG001
    """The state alone."""
    (result,) = [event.event for event in events if isinstance(event.event, RunResult)]
    return {"state": result.state.value}


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., ProfileRequest]:
    """Requests for small models, one a letter."""

    def made(letters: str, **changes: Any) -> ProfileRequest:
        return ProfileRequest(tuple(str(_model(tmp_path / f"{letter}.onnx")) for letter in letters), "here", **changes)

    return made


def _model(path: Path) -> Path:
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 3, 8, 8))
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, (1, 3, 8, 8))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["image"], ["out"])], "tiny", [image], [out])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    return path


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.places: list[tuple[str, int, int]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, spec: RunSpec, place: int, count: int) -> None:
        self.places.append((spec.model.name, place, count))


Made = Callable[..., ProfileRequest]


def test_runs_with_several_launches_are_all_submitted_before_the_first_is_followed(
    store: Store, agent: Agent, request_of: Made
) -> None:
    observer = Notes()
    records = profile(store, plan_profile(request_of("ab", launches=3)), observer, Stop())
    assert agent.calls == [("submit", 0), ("submit", 1), ("watch", 0), ("watch", 1)]
    assert [record.state for record in records] == [RunState.DONE] * 2
    first, second = agent.submitted
    assert first.group_id == second.group_id != ""
    assert (first.group_size, second.group_size, first.launches) == (2, 2, 3)
    assert records[0].spec == first
    assert records[0].group == records[1].group != ""
    assert observer.places == [("a", 1, 2), ("b", 2, 2)]
    assert (agent.leases, agent.released) == ([None, None], [])


def test_runs_with_one_launch_follow_each_other_without_a_group(store: Store, agent: Agent, request_of: Made) -> None:
    profile(store, plan_profile(request_of("ab")), Observer(), Stop())
    assert agent.calls == [("submit", 0), ("watch", 0), ("submit", 1), ("watch", 1)]
    assert [(spec.group_id, spec.group_size) for spec in agent.submitted] == [("", 0)] * 2
    assert (agent.leases, agent.released) == ([LEASE, LEASE], [LEASE])


@pytest.mark.usefixtures("agent")
def test_one_model_is_in_no_group(store: Store, request_of: Made) -> None:
    (record,) = profile(store, plan_profile(request_of("a", launches=3)), Observer(), Stop())
    assert (record.spec.group_id, record.spec.group_size, record.group) == ("", 0, "")


def test_more_models_than_may_wait_make_several_groups(store: Store, agent: Agent, request_of: Made) -> None:
    observer = Notes()
    profile(store, plan_profile(request_of("abcde", launches=2)), observer, Stop())
    sizes = [spec.group_size for spec in agent.submitted]
    assert sizes == [3, 3, 3, 2, 2]
    assert len({spec.group_id for spec in agent.submitted}) == 2
    assert [call for call, _ in agent.calls] == ["submit"] * 3 + ["watch"] * 3 + ["submit"] * 2 + ["watch"] * 2
    assert [place for _, place, _ in observer.places] == [1, 2, 3, 4, 5]


def _specs(count: int, launches: int) -> list[RunSpec]:
    return [RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8, launches=launches) for _ in range(count)]


@pytest.mark.parametrize(
    ("count", "launches", "device", "sizes"),
    [
        (4, 2, DEVICE, [3, 1]),
        (3, 2, replace(DEVICE, features=("launches",)), [1, 1, 1]),
        (2, 1, DEVICE, [1, 1]),
        (2, 2, replace(DEVICE, limits=Limits(queue_length=0)), [1, 1]),
    ],
)
def test_a_part_that_is_one_run_is_no_group(count: int, launches: int, device: Device, sizes: list[int]) -> None:
    parts = in_turns(_specs(count, launches), device)
    assert [len(part) for part in parts] == sizes
    assert all(
        (spec.group_size, bool(spec.group_id)) == (0, False) for part in parts if len(part) == 1 for spec in part
    )


def test_a_stop_cancels_all_that_were_submitted_the_waiting_ones_first(
    store: Store, agent: Agent, request_of: Made
) -> None:
    stop, observer = Stop(), Notes()

    def stop_once() -> None:
        if not stop.requested:
            stop.request()
            assert agent.all_cancelled.wait(10)  # by a thread of its own

    agent.on_watch = stop_once
    records = profile(store, plan_profile(request_of("abcd", launches=2)), observer, stop)
    assert [record.state for record in records] == [RunState.CANCELLED] * 3
    assert [number for call, number in agent.calls if call == "cancel"] == [2, 1, 0]
    assert len(agent.submitted) == 3
    assert observer.notes[-1] == "stopping the run on the device; interrupt again to leave at once"


def test_a_refused_submission_takes_the_earlier_ones_back_and_leaves_none_unfinished(
    store: Store, agent: Agent, request_of: Made
) -> None:
    agent.room = 2
    with pytest.raises(QueueFull):
        profile(store, plan_profile(request_of("abc", launches=2)), Observer(), Stop())
    assert [call for call, _ in agent.calls] == ["submit", "submit", "cancel", "watch", "cancel", "watch"]
    assert {run.run_id: run.state for run in store.runs()} == {
        spec.run_id: RunState.CANCELLED for spec in agent.submitted
    }


def test_runs_that_cannot_be_taken_back_are_named_without_waiting_for_each(
    store: Store, agent: Agent, request_of: Made
) -> None:
    agent.room, agent.refusal = 2, AgentUnreachable("no agent answers")
    observer = Notes()
    with pytest.raises(AgentUnreachable):
        profile(store, plan_profile(request_of("abc", launches=2)), observer, Stop())
    assert [call for call, _ in agent.calls] == ["submit", "submit", "cancel"]
    assert sum("may have reached the device" in note for note in observer.notes) == 1
    assert [note[-8:] for note in observer.notes[-2:]] == [spec.run_id[-8:] for spec in reversed(agent.submitted)]


def test_the_runs_that_go_on_are_named_when_one_cannot_be_followed(
    store: Store, agent: Agent, request_of: Made
) -> None:
    observer = Notes()

    def leave() -> None:
        raise KeyboardInterrupt

    agent.on_watch = leave
    with pytest.raises(KeyboardInterrupt):
        profile(store, plan_profile(request_of("ab", launches=2)), observer, Stop())
    run_ids = [spec.run_id for spec in agent.submitted]
    assert observer.notes[-2:] == [f"the result of run {each}: backbench run follow {each[-8:]}" for each in run_ids]


@pytest.mark.usefixtures("agent")
def test_nobody_can_take_a_run_for_one_that_never_reached_its_device_before_it_could(
    store: Store, request_of: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run = Store.create_run

    def created(own: Store, spec: RunSpec, *arguments: Any, **named: Any) -> Any:
        record = create_run(own, spec, *arguments, **named)
        with Store.open(store.root) as other, pytest.raises(StoreUnusable, match="another process"):
            other.log(spec.run_id)
        return record

    monkeypatch.setattr(Store, "create_run", created)
    (record,) = profile(store, plan_profile(request_of("a")), Observer(), Stop())
    assert record.state is RunState.DONE


def test_an_interrupt_that_leaves_at_once_gives_the_device_back(store: Store, agent: Agent, request_of: Made) -> None:
    def leave() -> None:
        raise KeyboardInterrupt

    agent.on_watch = leave
    with pytest.raises(KeyboardInterrupt):
        profile(store, plan_profile(request_of("ab")), Observer(), Stop())
    assert agent.released == [LEASE]


def test_a_submission_without_a_clear_answer_keeps_the_run(store: Store, agent: Agent, request_of: Made) -> None:
    agent.room, agent.refusal = 0, DeadlineExceeded("the agent did not answer within 30 s")
    observer = Notes()
    with pytest.raises(DeadlineExceeded):
        profile(store, plan_profile(request_of("a")), observer, Stop())
    (record,) = store.runs()
    assert record.document is None
    assert f"backbench run follow {record.run_id}" in observer.notes[-1]


def test_a_caller_may_alter_each_run(store: Store, agent: Agent, request_of: Made) -> None:
    plan = plan_profile(request_of("ab", launches=2))
    profile(store, plan, Observer(), Stop(), change=lambda place, spec: replace(spec, telemetry_rate_hz=float(place)))
    assert [spec.telemetry_rate_hz for spec in agent.submitted] == [0.0, 1.0]
