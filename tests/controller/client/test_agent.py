"""The client against a real agent."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from backbench.controller.client import AgentClient
from backbench.controller.push import Upload, push
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import (
    ArtifactNotFound,
    DeviceBusy,
    DigestMismatch,
    InvalidArgument,
    InvalidRunSpec,
    LeaseNotFound,
    RunNotFound,
)
from backbench.domain.event import RunResult
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec, RunState, Scenario
from backbench.models.catalog import skeleton_path
from backbench.v1 import artifact_pb2, artifact_pb2_grpc
from backbench.wire.digest import CHUNK_BYTES, sha256_of_file

MODEL = "mobilenetv3_large_100"


def _spec(client: AgentClient, frames: int = 30) -> RunSpec:
    (sha256,) = push(client, [Upload(skeleton_path(MODEL), ArtifactKind.SKELETON, MODEL)])
    return RunSpec(
        run_id=new_run_id(),
        model=ModelRef(MODEL, sha256, "skeleton"),
        height=32,
        width=32,
        scenario=Scenario(frame_count=frames, warmup_frame_count=2),
        memory_pass=False,
    )


def test_the_device_says_who_it_is(client: AgentClient) -> None:
    device = client.get_device()
    assert len(device.device_id) == 32
    assert any(backend.name == "onnxruntime" and backend.available for backend in device.backends)


def test_what_the_device_has_is_not_sent_again(client: AgentClient, a_file: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    uploads = [Upload(a_file, ArtifactKind.IMAGE, "one"), Upload(a_file, ArtifactKind.IMAGE, "same bytes")]

    first = push(client, uploads, lambda *told: seen.append(told))
    size = a_file.stat().st_size
    assert first == (sha256_of_file(a_file),) * 2
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == size
    assert {(name, of) for name, _, of in seen} == {("one", size)}

    seen.clear()
    assert push(client, uploads, lambda *told: seen.append(told)) == first
    assert seen == []
    assert [artifact.name for artifact in client.list_artifacts() if artifact.sha256 == first[0]] == ["one"]
    client.delete_artifact(first[0])
    with pytest.raises(ArtifactNotFound):
        client.delete_artifact(first[0])


def test_an_upload_goes_on_where_an_earlier_one_stopped(client: AgentClient, address: str, a_file: Path) -> None:
    sha256, size = sha256_of_file(a_file), a_file.stat().st_size
    _send_first_chunk(address, a_file, sha256)
    assert client.query_upload(sha256) == (CHUNK_BYTES, False)

    done: list[int] = []
    sent = client.upload(a_file, sha256, ArtifactKind.IMAGE, "rest", done.append)
    assert sent == size - CHUNK_BYTES
    assert min(done) > CHUNK_BYTES
    assert client.query_upload(sha256) == (size, True)
    assert client.upload(a_file, sha256, ArtifactKind.IMAGE, "again") == 0


def _send_first_chunk(address: str, path: Path, sha256: str) -> None:
    header = artifact_pb2.UploadHeader(
        sha256=sha256, size_bytes=path.stat().st_size, kind=artifact_pb2.ARTIFACT_KIND_IMAGE
    )
    requests = [
        artifact_pb2.UploadRequest(header=header),
        artifact_pb2.UploadRequest(offset=0, data=path.read_bytes()[:CHUNK_BYTES]),
    ]
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
        artifact_pb2_grpc.ArtifactServiceStub(channel).Upload(iter(requests))


def test_bytes_that_changed_since_they_were_named_are_refused(client: AgentClient, a_file: Path) -> None:
    sha256 = sha256_of_file(a_file)
    a_file.write_bytes(a_file.read_bytes()[::-1])
    with pytest.raises(DigestMismatch):
        client.upload(a_file, sha256, ArtifactKind.IMAGE, "changed")
    assert client.query_upload(sha256) == (0, False)


def test_a_file_that_gets_shorter_while_it_is_sent_is_named(client: AgentClient, a_file: Path) -> None:
    def shorten(done: int) -> None:
        with a_file.open("r+b") as file:
            file.truncate(done)

    with pytest.raises(InvalidArgument, match="became shorter"):
        client.upload(a_file, sha256_of_file(a_file), ArtifactKind.IMAGE, "shrinking", shorten)


def test_a_file_that_is_not_there_is_an_os_error(client: AgentClient, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.upload(tmp_path / "nothing", "0" * 64, ArtifactKind.IMAGE, "nothing")


def test_a_digest_that_is_none_is_refused(client: AgentClient) -> None:
    with pytest.raises(InvalidArgument):
        client.find_missing(["not a digest"])
    assert client.find_missing([]) == ()


def test_many_digests_are_asked_in_parts(client: AgentClient) -> None:
    digests = [f"{number:064x}" for number in range(5000)]
    assert client.find_missing([*digests, digests[0]]) == tuple(digests)


def test_a_run_from_submission_to_removal(client: AgentClient) -> None:
    spec = _spec(client)
    assert client.submit_run(spec).spec == spec
    assert client.submit_run(spec).spec.run_id == spec.run_id
    events = list(client.watch_run(spec.run_id))
    numbered = [event.sequence for event in events if event.sequence is not None]
    assert numbered == list(range(1, len(numbered) + 1))
    result = events[-1].event
    assert isinstance(result, RunResult)
    assert (result.state, result.completed_count) == (RunState.DONE, 30)
    assert sum(len(event.event.index) for event in events if isinstance(event.event, FrameBlock)) == 32

    again = list(client.watch_run(spec.run_id, from_sequence=numbered[-1]))
    assert [event.sequence for event in again] == [numbered[-1]]
    client.acknowledge_run(spec.run_id, numbered[-1])
    assert client.get_run(spec.run_id).acknowledged_sequence == numbered[-1]
    assert spec.run_id in {run.spec.run_id for run in client.list_runs()}
    client.delete_run(spec.run_id)
    with pytest.raises(RunNotFound):
        client.get_run(spec.run_id)
    with pytest.raises(RunNotFound):
        list(client.watch_run(spec.run_id))


def test_another_specification_under_a_known_id_is_refused(client: AgentClient) -> None:
    spec = _spec(client)
    client.submit_run(spec)
    with pytest.raises(InvalidRunSpec):
        client.submit_run(replace(spec, batch=2))
    client.cancel_run(spec.run_id)


def test_a_run_is_cancelled_from_another_thread_while_it_is_watched(client: AgentClient) -> None:
    spec = _spec(client, frames=1_000_000)
    client.submit_run(spec)
    frames = 0
    last: Any = None
    cancelling: threading.Thread | None = None
    for event in client.watch_run(spec.run_id):
        last = event.event
        if isinstance(last, FrameBlock):
            frames += len(last.index)
            if cancelling is None:
                cancelling = threading.Thread(target=client.cancel_run, args=(spec.run_id,))
                cancelling.start()
    assert isinstance(last, RunResult)
    assert last.state is RunState.CANCELLED
    assert 0 < last.completed_count <= frames < 1_000_000
    assert cancelling is not None
    cancelling.join()


def test_hanging_up_a_watch_leaves_the_run_alone(client: AgentClient) -> None:
    spec = _spec(client)
    client.submit_run(spec)
    watch = client.watch_run(spec.run_id)
    next(watch)
    watch.close()
    assert list(client.watch_run(spec.run_id))[-1].event == next(
        event.event for event in client.watch_run(spec.run_id) if isinstance(event.event, RunResult)
    )
    assert client.get_run(spec.run_id).state is RunState.DONE


def test_a_lease_reserves_the_device(client: AgentClient) -> None:
    lease = client.acquire_lease("nightly")
    try:
        with pytest.raises(DeviceBusy, match="nightly"):
            client.acquire_lease("somebody else")
        behind = client.submit_run(_spec(client))
        assert client.renew_lease(lease).lease_id == lease.lease_id
        run = client.submit_run(_spec(client), lease)
        assert client.cancel_run(run.spec.run_id).state is RunState.CANCELLED
        assert client.get_run(behind.spec.run_id).state is RunState.QUEUED
        client.cancel_run(behind.spec.run_id)
    finally:
        client.release_lease(lease)
    client.release_lease(lease)
    with pytest.raises(LeaseNotFound):
        client.renew_lease(lease)
