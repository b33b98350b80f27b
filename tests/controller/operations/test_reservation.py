"""Reserving a device: waiting in line, keeping the lease alive, losing it, giving it back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from backbench.controller.client import AgentClient
from backbench.controller.operations import reservation as module
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.reservation import Reservation
from backbench.controller.push import Upload, push
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import AgentUnreachable, BackbenchError, DeviceBusy, LeaseNotFound
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import Lease, ModelRef, Run, RunSpec, Scenario
from backbench.models.catalog import skeleton_path

MODEL = "mobilenetv3_large_100"


class Steps(Observer):
    def __init__(self, on_step: Callable[[str], None] = lambda _: None) -> None:
        self.steps: list[str] = []
        self.cuts: list[BackbenchError] = []
        self._on_step = on_step

    def step(self, text: str) -> None:
        self.steps.append(text)
        self._on_step(text)

    def cut(self, error: BackbenchError) -> None:
        self.cuts.append(error)


@pytest.fixture
def other(address: str) -> Iterator[AgentClient]:
    """Another controller."""
    with AgentClient(address) as other:
        yield other


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)


def test_a_device_that_is_in_use_is_waited_for_and_who_has_it_is_told(client: AgentClient, other: AgentClient) -> None:
    lease = other.acquire_lease("alice@laptop")
    observer = Steps(lambda text: other.release_lease(lease) if text else None)
    with Reservation(client, "pi5", observer) as held:
        assert held.acquire().epoch > lease.epoch
        with pytest.raises(DeviceBusy):
            other.acquire_lease("alice@laptop")
    assert observer.steps == ["waiting: pi5 is used by alice@laptop", ""]
    other.release_lease(other.acquire_lease("alice@laptop"))


def test_the_runs_that_are_before_it_are_told_with_who_has_the_device(client: AgentClient, other: AgentClient) -> None:
    lease = other.acquire_lease("alice@laptop")
    (sha256,) = push(other, [Upload(skeleton_path(MODEL), ArtifactKind.SKELETON, MODEL)])
    spec = RunSpec(new_run_id(), ModelRef(MODEL, sha256, "skeleton"), 32, 32, scenario=Scenario(frame_count=10**6))
    other.submit_run(spec, lease)
    with Reservation(client, "pi5", Observer(), wait=False) as held, pytest.raises(DeviceBusy) as caught:
        held.acquire()
    other.cancel_run(spec.run_id)
    other.release_lease(lease)
    assert caught.value.message.startswith("pi5 is used by alice@laptop, 1 run before;")


def test_without_waiting_who_has_the_device_is_an_error(client: AgentClient, other: AgentClient) -> None:
    lease = other.acquire_lease("alice@laptop")
    try:
        with Reservation(client, "pi5", Observer(), wait=False) as held, pytest.raises(DeviceBusy) as caught:
            held.acquire()
    finally:
        other.release_lease(lease)
    assert caught.value.message == "pi5 is used by alice@laptop; leave --no-wait away to wait in line"
    assert caught.value.exit_status == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(143), AgentUnreachable("gone")])
def test_however_the_block_ends_the_device_is_given_back(
    client: AgentClient, other: AgentClient, error: BaseException
) -> None:
    with pytest.raises(BaseException), Reservation(client, "pi5", Observer()) as held:  # noqa: B017
        held.acquire()
        raise error
    other.release_lease(other.acquire_lease("alice@laptop"))


def test_nothing_is_reserved_where_nothing_is_asked_for(client: AgentClient, other: AgentClient) -> None:
    with Reservation(client, "pi5", Observer()):
        other.release_lease(other.acquire_lease("alice@laptop"))


class Scripted:
    """Stands for a client whose lease lives for a moment only."""

    def __init__(self, *answers: BackbenchError | None) -> None:
        self.answers = list(answers)
        self.renewed = threading.Event()
        self.renewals = 0

    def acquire_lease(self, holder: str, ttl_s: float) -> Lease:  # noqa: ARG002
        return Lease("a-lease", 1, holder, 20_000_000)

    def renew_lease(self, lease: Lease) -> Lease:
        self.renewals += 1
        if self.renewals > len(self.answers):
            self.renewed.set()
            return lease
        if (answer := self.answers[self.renewals - 1]) is not None:
            raise answer
        return lease

    def release_lease(self, lease: Lease) -> None:
        pass

    def submit_run(self, spec: RunSpec, lease: Lease) -> Any:  # noqa: ARG002
        raise LeaseNotFound("the lease does not exist or has expired; acquire it anew")


def _reservation(scripted: Scripted) -> Reservation:
    return Reservation(cast("AgentClient", scripted), "pi5", Observer())


def test_a_lease_is_renewed_though_the_line_breaks_at_times() -> None:
    scripted = Scripted(None, AgentUnreachable("cut"), None, AgentUnreachable("cut"))
    with _reservation(scripted) as held:
        lease = held.acquire()
        assert scripted.renewed.wait(20)
        assert held.acquire() == lease


def test_a_lost_lease_is_one_clear_error() -> None:
    scripted = Scripted(LeaseNotFound("the lease does not exist or has expired; acquire it anew"))
    with _reservation(scripted) as held:
        held.acquire()
        deadline = time.monotonic() + 20
        with pytest.raises(DeviceBusy, match="the reservation of pi5 is lost") as caught:
            while time.monotonic() < deadline:
                held.acquire()
        assert "others may have measured there" in caught.value.message
        assert scripted.renewals == 1


def test_a_lease_that_the_device_no_longer_knows_at_a_submission_is_that_error_too() -> None:
    spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    with _reservation(Scripted()) as held, pytest.raises(DeviceBusy, match="the reservation of pi5 is lost"):
        held.submit(spec)


class Unsteady(Scripted):
    """Cannot be reached twice, then grants."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0

    def acquire_lease(self, holder: str, ttl_s: float) -> Lease:
        self.tries += 1
        if self.tries < 3:
            raise AgentUnreachable("no agent answers")
        return super().acquire_lease(holder, ttl_s)


def test_a_line_that_breaks_while_one_waits_does_not_end_the_waiting() -> None:
    observer, unsteady = Steps(), Unsteady()
    with Reservation(cast("AgentClient", unsteady), "pi5", observer) as held:
        assert held.acquire().lease_id == "a-lease"
    assert unsteady.tries == 3
    assert observer.cuts


class Used(Scripted):
    """Is used by somebody the first time, and then cannot say how many runs there are."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = [DeviceBusy("the device is reserved", holder="alice@laptop")]

    def acquire_lease(self, holder: str, ttl_s: float) -> Lease:
        if self.busy:
            raise self.busy.pop()
        return super().acquire_lease(holder, ttl_s)

    def list_runs(self, *, going_on: bool) -> tuple[Run, ...]:  # noqa: ARG002
        raise AgentUnreachable("cut")


def test_a_line_that_breaks_while_the_runs_before_it_are_counted_does_not_end_the_waiting() -> None:
    observer = Steps()
    with Reservation(cast("AgentClient", Used()), "pi5", observer) as held:
        assert held.acquire().lease_id == "a-lease"
    assert observer.steps == ["waiting: pi5 is used by alice@laptop", ""]
