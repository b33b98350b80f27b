"""Runs over a real socket, from servers that do what the agent does at its edges."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from backbench.controller.client import AgentClient, agent
from backbench.domain.errors import DeadlineExceeded, VersionMismatch
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, Owner, Run, RunSpec, RunState
from backbench.v1 import run_pb2, run_pb2_grpc
from backbench.wire.mapping import to_message


def _runs(count: int) -> list[Run]:
    specs = [RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8) for _ in range(count)]
    return [Run(spec, RunState.DONE, 1, owner=Owner("alice", "a-fleet")) for spec in specs]


class Pages(run_pb2_grpc.RunServiceServicer):
    """Two runs on a page."""

    def __init__(self, runs: list[Run]) -> None:
        self._runs = runs

    def ListRuns(self, request: Any, context: Any) -> run_pb2.ListRunsResponse:  # noqa: ARG002, N802
        start = int(request.page_token or 0)
        page = self._runs[start : start + 2]
        following = str(start + 2) if start + 2 < len(self._runs) else ""
        return run_pb2.ListRunsResponse(
            runs=[to_message(run, run_pb2.Run()) for run in page], next_page_token=following
        )


@pytest.mark.parametrize("count", [0, 2, 5])
def test_every_page_of_runs_is_asked_for(serve: Any, count: int) -> None:
    runs = _runs(count)
    with AgentClient(serve(runs=Pages(runs))) as client:  # type: ignore[abstract]
        assert client.list_runs() == tuple(runs)


class Streams(run_pb2_grpc.RunServiceServicer):
    """An event that holds nothing that this version knows, or nothing at all for ever."""

    def WatchRun(self, request: Any, context: Any) -> Iterator[run_pb2.WatchRunResponse]:  # noqa: N802
        if request.from_sequence == 1:
            yield run_pb2.WatchRunResponse(event=run_pb2.RunEvent(sequence=1))
        while context.is_active():
            time.sleep(0.01)


def _served(serve: Any) -> str:
    return str(serve(runs=Streams()))  # type: ignore[abstract]  # the calls that are not made need no answer


def test_an_event_of_a_newer_version_is_no_damage(serve: Any) -> None:
    with AgentClient(_served(serve)) as client, pytest.raises(VersionMismatch, match="update Backbench"):
        list(client.watch_run(new_run_id()))


def test_a_stream_has_a_deadline_too(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_WATCH_S", 0.2)
    with AgentClient(_served(serve)) as client, pytest.raises(DeadlineExceeded):
        list(client.watch_run(new_run_id(), from_sequence=2))
