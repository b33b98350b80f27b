"""Following a run of a real agent over lines that break."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.client import AgentClient
from backbench.controller.operations.follow import follow
from backbench.controller.push import Upload, push
from backbench.controller.store import Store
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import AgentUnreachable, RunNotFound
from backbench.domain.event import RunEvent
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec, RunState, Scenario
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


def test_a_run_that_the_agent_does_not_have_is_an_error_at_once(store: Store, client: AgentClient) -> None:
    spec = _started(store, client, frames=20)
    follow(store, client, spec.run_id)
    stranger = RunSpec(new_run_id(), spec.model, 32, 32)
    store.create_run(stranger, device_name="here", device=client.get_device(), budgets=())
    begun = time.monotonic()
    with pytest.raises(RunNotFound):
        follow(store, client, stranger.run_id)
    assert time.monotonic() - begun < 5


def test_an_upload_survives_a_line_that_breaks(client: AgentClient, address: str, line: Any, tmp_path: Path) -> None:
    path = tmp_path / "bytes.bin"
    path.write_bytes(str(tmp_path).encode() * (9_000_000 // len(str(tmp_path))))
    broken = line(address, cuts=4, up_bytes=2_200_000)
    with AgentClient(broken.address) as far:
        (sha256,) = push(far, [Upload(path, ArtifactKind.IMAGE, "bytes")])
    assert broken.cuts_left == 0
    assert client.query_upload(sha256) == (path.stat().st_size, True)
    assert broken.up_bytes < 2 * path.stat().st_size
