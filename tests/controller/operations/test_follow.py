"""Following a run of a real agent over lines that break."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from backbench.controller.client import AgentClient, channel
from backbench.controller.operations import follow as follow_module
from backbench.controller.operations.follow import end_here, follow
from backbench.controller.push import Upload, push
from backbench.controller.store import EventLog, RunRecord, Store
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import (
    AgentUnreachable,
    BackbenchError,
    DeadlineExceeded,
    JournalCorrupt,
    RunNotFound,
    StoreUnusable,
)
from backbench.domain.event import RunEvent, RunResult
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, Run, RunSpec, RunState, Scenario
from backbench.models.catalog import skeleton_path

MODEL = "mobilenetv3_large_100"


def _started(store: Store, client: AgentClient, frames: int) -> RunSpec:
    (sha256,) = push(client, [Upload(skeleton_path(MODEL), ArtifactKind.SKELETON, MODEL)])
    spec = RunSpec(
        run_id=new_run_id(),
        model=ModelRef(MODEL, sha256, "skeleton"),
        height=32,
        width=32,
        scenario=Scenario(frame_count=frames, warmup_frame_count=10),
        memory_pass=False,
    )
    store.create_run(spec, device_name="here", device=client.get_device(), budgets=())
    client.submit_run(spec)
    return spec


def _numbers(store: Store, run_id: str) -> Counter[int]:
    if store.run(run_id).document is not None:
        return Counter(store.frames(run_id)["index"].to_pylist())
    with store.log(run_id) as log:
        blocks = [event.event for event in log.events() if isinstance(event.event, FrameBlock)]
    return Counter(number for block in blocks for number in block.index)


def test_a_run_is_followed_stored_and_acknowledged(store: Store, client: AgentClient) -> None:
    spec = _started(store, client, frames=50)
    seen: list[RunEvent] = []
    record = follow(store, client, spec.run_id, seen.append)
    assert record.state is RunState.DONE
    assert record.document is not None
    assert record.document["frames"]["completed"] == 50
    assert _numbers(store, spec.run_id) == Counter(range(60))
    numbered = [event.sequence for event in seen if event.sequence is not None]
    assert numbered == list(range(1, len(numbered) + 1))
    run = client.get_run(spec.run_id)
    assert run.acknowledged_sequence == run.last_sequence == numbered[-1]


def test_each_frame_is_stored_once_however_often_the_line_breaks(
    store: Store, client: AgentClient, address: str, line: Any
) -> None:
    spec = _started(store, client, frames=1500)
    broken = line(address, cuts=4, down_bytes=2_000)
    cuts: list[str] = []
    seen: list[RunEvent] = []
    with AgentClient(broken.address) as far:
        record = follow(store, far, spec.run_id, seen.append, lambda error: cuts.append(error.message))
    assert broken.cuts_left == 0
    assert cuts
    assert record.state is RunState.DONE
    assert _numbers(store, spec.run_id) == Counter(range(1510))
    direct = [event for event in client.watch_run(spec.run_id) if event.sequence is not None]
    assert [event for event in seen if event.sequence is not None] == direct


def test_without_contact_it_gives_up_says_how_to_continue_and_continues(
    store: Store, client: AgentClient, address: str, line: Any
) -> None:
    spec = _started(store, client, frames=1500)
    short = line(address)
    seen = threading.Event()

    def look(event: RunEvent) -> None:
        if isinstance(event.event, FrameBlock) and not seen.is_set():
            seen.set()
            threading.Thread(target=short.close).start()

    with AgentClient(short.address, patience_s=0.1) as far, pytest.raises(AgentUnreachable) as caught:
        follow(store, far, spec.run_id, look, patience_s=0.5)
    assert f"backbench run follow {spec.run_id}" in caught.value.message
    assert "no contact" in caught.value.message
    kept = _numbers(store, spec.run_id)
    assert kept
    assert not store.run(spec.run_id).state.ended

    assert follow(store, client, spec.run_id).state is RunState.DONE
    assert _numbers(store, spec.run_id) == Counter(range(1510))


def test_a_finished_log_needs_no_agent(store: Store, client: AgentClient) -> None:
    spec = _started(store, client, frames=20)
    with store.log(spec.run_id) as log:
        for event in client.watch_run(spec.run_id):
            if event.sequence is not None:
                log.append(event)
    with AgentClient("127.0.0.1:1", patience_s=0.1) as nobody:
        record = follow(store, nobody, spec.run_id)
        assert record.state is RunState.DONE
        assert follow(store, nobody, spec.run_id) == record


def test_a_run_that_never_reached_its_device_is_ended_here_with_the_reason(store: Store, client: AgentClient) -> None:
    stranger = RunSpec(new_run_id(), ModelRef(MODEL, "a" * 64, "skeleton"), 32, 32)
    store.create_run(stranger, device_name="here", device=client.get_device(), budgets=())
    record = follow(store, client, stranger.run_id)
    assert record.state is RunState.INTERRUPTED
    assert record.document is not None
    (reason,) = [each for each in record.document["validity"]["reasons"] if each["code"] == "run_not_done"]
    assert "the device never had this run" in reason["detail"]
    assert record.document["frames"]["completed"] == 0
    assert follow(store, client, stranger.run_id) == record


def test_another_device_at_the_address_is_no_reason_to_give_a_run_up(store: Store, client: AgentClient) -> None:
    stranger = RunSpec(new_run_id(), ModelRef(MODEL, "a" * 64, "skeleton"), 32, 32)
    device = replace(client.get_device(), device_id="another")
    store.create_run(stranger, device_name="here", device=device, budgets=())
    with pytest.raises(RunNotFound, match="backbench run cancel --here"):
        follow(store, client, stranger.run_id)
    assert store.run(stranger.run_id).document is None
    record = end_here(store, stranger.run_id, RunState.CANCELLED, "it was ended here")
    assert record.state is RunState.CANCELLED
    assert record.document is not None
    assert record.document["log"] == [{"level": "error", "text": "it was ended here"}]


def test_a_second_follower_of_the_same_store_is_told_and_does_no_harm(store: Store, client: AgentClient) -> None:
    spec = _started(store, client, frames=300)
    told: list[BackbenchError] = []

    def look(event: RunEvent) -> None:
        if isinstance(event.event, FrameBlock) and not told:
            with Store.open(store.root) as other, pytest.raises(StoreUnusable, match="another process") as caught:
                follow(other, client, spec.run_id)
            told.append(caught.value)

    record = follow(store, client, spec.run_id, look)
    assert told
    assert _numbers(store, spec.run_id) == Counter(range(310))
    with Store.open(store.root) as other:
        assert follow(other, client, spec.run_id) == record


class Scripted:
    """Stands for a client: each stream brings the next of `streams`, and `run` is what the device says of the run."""

    address = "nowhere:1"

    def __init__(self, spec: RunSpec, state: RunState, last_sequence: int, *streams: Sequence[Any]) -> None:
        self.run = Run(spec, state, 1, last_sequence=last_sequence)
        self._streams = list(streams)
        self.asked_from: list[int] = []
        self.acknowledged: list[int] = []

    def watch_run(self, run_id: str, from_sequence: int) -> Iterator[RunEvent]:  # noqa: ARG002
        self.asked_from.append(from_sequence)
        for each in self._streams.pop(0) if self._streams else ():
            if isinstance(each, BackbenchError):
                raise each
            yield each

    def get_run(self, run_id: str) -> Run:  # noqa: ARG002
        return self.run

    def acknowledge_run(self, run_id: str, sequence: int) -> None:  # noqa: ARG002
        self.acknowledged.append(sequence)


def _event(sequence: int) -> RunEvent:
    row = (sequence,)
    block = FrameBlock(0, row, row, row, (sequence + 1000,), (1,), (0,), (0,), compute_ns=(900,))
    return RunEvent(sequence, sequence, 1, block)


def _end(sequence: int, state: RunState = RunState.DONE) -> RunEvent:
    return RunEvent(sequence, sequence, 1, RunResult(state))


@pytest.fixture
def spec(store: Store) -> RunSpec:
    spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    store.create_run(spec, "pi", None, ())
    return spec


def _follow(store: Store, scripted: Scripted) -> tuple[RunRecord, list[BackbenchError]]:
    cuts: list[BackbenchError] = []
    client = cast("AgentClient", scripted)
    return follow(store, client, scripted.run.spec.run_id, on_cut=cuts.append, patience_s=20), cuts


def test_a_damaged_journal_ends_the_run_with_what_lies_before_the_damage(store: Store, spec: RunSpec) -> None:
    damage = JournalCorrupt("events-2.seg is damaged at byte 77")
    scripted = Scripted(spec, RunState.DONE, 9, [_event(1), _event(2), damage])
    record, cuts = _follow(store, scripted)
    assert (record.state, cuts) == (RunState.FAILED, [])
    assert record.document is not None
    assert record.document["outcome"] == "journal_damaged"
    assert "events-2.seg" in record.document["failure"]["message"]
    assert store.frames(spec.run_id)["index"].to_pylist() == [1, 2]
    assert scripted.acknowledged == [9]


def test_a_journal_that_is_damaged_while_its_run_goes_on_is_an_error_and_no_end(store: Store, spec: RunSpec) -> None:
    scripted = Scripted(spec, RunState.RUNNING, 9, [_event(1), JournalCorrupt("damaged")], [_event(2), _end(3)])
    with pytest.raises(JournalCorrupt):
        _follow(store, scripted)
    record, _ = _follow(store, scripted)
    assert scripted.asked_from == [1, 2]
    assert record.state is RunState.DONE
    assert store.frames(spec.run_id)["index"].to_pylist() == [1, 2]


def test_a_run_of_which_the_device_has_less_than_is_here_keeps_what_is_here(store: Store, spec: RunSpec) -> None:
    before = [_event(number) for number in range(1, 8)]
    scripted = Scripted(spec, RunState.INTERRUPTED, 5, [*before, AgentUnreachable("the plug was pulled")])
    record, cuts = _follow(store, scripted)
    assert len(cuts) == 1
    assert record.state is RunState.INTERRUPTED
    assert store.frames(spec.run_id)["index"].to_pylist() == list(range(1, 8))
    assert scripted.acknowledged == [5]


def test_a_run_whose_device_gives_no_end_is_ended_instead_of_asked_for_ever(store: Store, spec: RunSpec) -> None:
    record, _ = _follow(store, Scripted(spec, RunState.CANCELLED, 9, [_event(1), _event(2)]))
    assert record.state is RunState.CANCELLED
    assert store.frames(spec.run_id)["index"].to_pylist() == [1, 2]


def test_a_stream_that_has_lasted_long_is_opened_anew_without_a_word(store: Store, spec: RunSpec) -> None:
    scripted = Scripted(spec, RunState.QUEUED, 0, [DeadlineExceeded("over")], [DeadlineExceeded("over")], [_end(1)])
    record, cuts = _follow(store, scripted)
    assert (record.state, cuts) == (RunState.DONE, [])


class Clock:
    """Stands for the module `time` in `follow`; sleeping makes it later, and so do streams that last."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def time_ns(self) -> int:
        return 1

    perf_counter_ns = time_ns


class Lasting(Scripted):
    """A client whose streams last as long as `lasts_s` says, and whose agent answers `get_run` or not."""

    def __init__(self, clock: Clock, spec: RunSpec, lasts_s: Sequence[float], *streams: Sequence[Any]) -> None:
        super().__init__(spec, RunState.QUEUED, 0, *streams)
        self._clock = clock
        self._lasts_s = list(lasts_s)
        self.hangs = False

    def watch_run(self, run_id: str, from_sequence: int) -> Iterator[RunEvent]:
        self._clock.sleep(self._lasts_s.pop(0))
        yield from super().watch_run(run_id, from_sequence)

    def get_run(self, run_id: str) -> Run:
        if self.hangs:
            self._clock.sleep(30)
            raise DeadlineExceeded("no answer")
        return super().get_run(run_id)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(follow_module, "time", clock)
    return clock


def test_patience_begins_anew_after_every_contact(store: Store, spec: RunSpec, clock: Clock) -> None:
    cut, over = AgentUnreachable("cut"), DeadlineExceeded("over")
    record, cuts = _follow(store, Lasting(clock, spec, (0, 900, 0, 0), [cut], [over], [cut], [_end(1)]))
    assert (record.state, cuts) == (RunState.DONE, [cut, cut])


def test_an_agent_that_keeps_the_line_and_never_answers_is_given_up(store: Store, spec: RunSpec, clock: Clock) -> None:
    hanging = Lasting(clock, spec, [900.0] * 3, *[[DeadlineExceeded("over")]] * 3)
    hanging.hangs = True
    with pytest.raises(AgentUnreachable, match="no contact"):
        _follow(store, hanging)
    assert store.run(spec.run_id).document is None


def test_a_run_that_another_process_has_finished_is_acknowledged_again(store: Store, spec: RunSpec) -> None:
    scripted = Scripted(spec, RunState.DONE, 2, [_event(1), _end(2)])
    with store.log(spec.run_id) as log:
        log.append(_event(1))
        log.append(_end(2))
        record = store.finish(spec.run_id, log)
    assert _follow(store, scripted) == (record, [])
    assert (scripted.asked_from, scripted.acknowledged) == ([], [2])


def test_a_kill_while_a_run_is_ended_here_leaves_its_end_or_nothing_of_it(
    store: Store, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = EventLog.append
    room = [1]

    def killed(log: EventLog, event: RunEvent) -> bool:
        if not room:
            raise SystemExit(137)
        room.pop()
        return append(log, event)

    monkeypatch.setattr(EventLog, "append", killed)
    with pytest.raises(SystemExit):
        end_here(store, spec.run_id, RunState.CANCELLED, "it was ended here")
    with store.log(spec.run_id) as log:
        assert log.ended or log.next_sequence == 1


def test_a_line_that_goes_dead_without_a_word_is_found_out(
    store: Store, client: AgentClient, address: str, line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"grpc.keepalive_time_ms": 500, "grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 500}
    options = tuple((name, quick.get(name, value)) for name, value in channel._OPTIONS)
    monkeypatch.setattr(channel, "_OPTIONS", options)
    spec = _started(store, client, frames=800)
    stalling = line(address)
    cuts: list[BackbenchError] = []

    def look(event: RunEvent) -> None:
        if isinstance(event.event, FrameBlock) and not cuts:
            stalling.stall()

    def on_cut(error: BackbenchError) -> None:
        cuts.append(error)
        stalling.go_on()

    with AgentClient(stalling.address) as far:
        record = follow(store, far, spec.run_id, look, on_cut)
    assert cuts
    assert record.state is RunState.DONE
    assert _numbers(store, spec.run_id) == Counter(range(810))


def test_a_submission_whose_answer_is_lost_makes_one_run(
    store: Store, client: AgentClient, address: str, line: Any
) -> None:
    first = _started(store, client, frames=20)
    spec = replace(first, run_id=new_run_id())
    deaf = line(address)
    with AgentClient(deaf.address) as far:
        assert far.get_device()
        deaf.lose_the_next_answer()
        assert far.submit_run(spec).spec == spec
    assert deaf.connections == 2
    assert [run.spec.run_id for run in client.list_runs()].count(spec.run_id) == 1
    store.create_run(spec, "here", None, ())
    assert follow(store, client, spec.run_id).state is RunState.DONE


def test_an_upload_survives_a_line_that_breaks(client: AgentClient, address: str, line: Any, tmp_path: Path) -> None:
    path = tmp_path / "bytes.bin"
    path.write_bytes(str(tmp_path).encode() * (9_000_000 // len(str(tmp_path))))
    broken = line(address, cuts=4, up_bytes=2_200_000)
    with AgentClient(broken.address) as far:
        (sha256,) = push(far, [Upload(path, ArtifactKind.IMAGE, "bytes")])
    assert broken.cuts_left == 0
    assert client.query_upload(sha256) == (path.stat().st_size, True)
    assert broken.up_bytes < 2 * path.stat().st_size
