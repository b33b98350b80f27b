"""A timed launch in this process, on an engine that is made for the test."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbench.agent.worker import table, timed
from backbench.agent.worker.inputs import SyntheticInputs
from backbench.agent.worker.job import Job
from backbench.agent.worker.reporting import Reporter
from backbench.agent.worker.table import NOT_REACHED, PENDING
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome

MakeJob = Callable[..., Job]
Perform = Callable[..., dict[str, Any]]
COMPLETED, ERRORED = (OUTCOME_NUMBERS[each] for each in (FrameOutcome.COMPLETED, FrameOutcome.ERRORED))


class HostTimed:
    """An engine of which every inference may do something."""

    output_names = ("scores",)

    def __init__(self, each: Callable[[int], object] = lambda _: None) -> None:
        self._each = each
        self._count = -1

    def infer(self, _: int) -> None:
        self._count += 1
        self._each(self._count)

    def outputs(self) -> Sequence[Any]:
        return [np.zeros((1, 4), np.float32)]


class Timed(HostTimed):
    """One that knows its times on the device."""

    def spans(self) -> tuple[int, int, int]:
        return 1, 2, 3


@pytest.fixture
def frames() -> Iterator[table.FrameTable]:
    descriptor = table.create(40)
    opened = table.FrameTable(descriptor, 40)
    opened.descriptor = descriptor  # type: ignore[attr-defined]
    yield opened
    opened.close()
    os.close(descriptor)


@pytest.fixture
def perform(make_job: MakeJob, frames: Any) -> Perform:
    """Performs a job of 4 warm-up frames; the events go to `said`, the gate's line comes from `told`."""

    def run(engine: Any, said: io.StringIO | None = None, told: str = "", **changes: Any) -> dict[str, Any]:
        fields = {"warmup_frame_count": 4, "frame_count": 36, "synthetic_count": 3, **changes}
        job = make_job(table_descriptor=frames.descriptor, **fields)
        reporter = Reporter(said or io.StringIO(), reads_memory=False)
        return timed.TimedLaunch(job, engine, SyntheticInputs(job), reporter, io.StringIO(told)).perform()

    return run


@pytest.mark.parametrize("arrivals", ["closed-loop", "idle"])
def test_rows_that_are_prepared_in_parts_make_one_window(
    perform: Perform, frames: table.FrameTable, monkeypatch: pytest.MonkeyPatch, arrivals: str
) -> None:
    monkeypatch.setattr(timed, "_PART_ROWS", 10)
    perform(HostTimed(), arrivals=arrivals)
    columns = frames.columns(0, 40)
    assert columns["index"] == tuple(range(40))
    assert columns["input"] == tuple(frame % 3 for frame in range(40))
    assert columns["tags"] == (1,) * 4 + (0,) * 36
    assert columns["outcome"] == (COMPLETED,) * 40
    assert list(columns["due_ns"]) == sorted(columns["due_ns"])


def test_a_duration_that_ends_at_once_has_no_window(perform: Perform, frames: table.FrameTable) -> None:
    report = perform(HostTimed(), duration_ns=0)
    assert (report["window_start_ns"], report["window_end_ns"]) == (None, None)
    assert frames.written == 4
    assert frames.columns(4, 40)["outcome"] == (PENDING,) * 36


def test_the_spans_of_a_device_are_found_and_those_of_the_host_are_none(
    perform: Perform, frames: table.FrameTable
) -> None:
    perform(Timed())
    columns = frames.columns(0, 40)
    assert set(columns["host_to_device_ns"]) == {1}
    assert set(columns["compute_ns"]) == {2}
    assert set(columns["device_to_host_ns"]) == {3}
    perform(HostTimed())
    assert set(frames.columns(0, 40)["host_to_device_ns"]) == {NOT_REACHED}


def test_a_lack_of_memory_ends_the_window_and_other_errors_do_not(perform: Perform, frames: table.FrameTable) -> None:
    def fail(count: int) -> None:
        if count in (7, 9):
            raise RuntimeError("lost" if count == 7 else "std::bad_alloc")

    with pytest.raises(RuntimeError, match="bad_alloc"):
        perform(HostTimed(fail))
    assert frames.written == 10
    assert frames.columns(7, 10)["outcome"] == (ERRORED, COMPLETED, ERRORED)


def test_stages_are_told_as_they_begin(perform: Perform) -> None:
    said = io.StringIO()
    perform(HostTimed(), said, "go\n", gated=True)
    assert [json.loads(line)["stage"] for line in said.getvalue().splitlines()] == ["warmup", "ready", "measure"]


def test_a_gate_that_nobody_will_open_ends_the_launch(perform: Perform, frames: table.FrameTable) -> None:
    with pytest.raises(timed.AgentGone):
        perform(HostTimed(), gated=True)
    assert frames.written == 4


def test_the_agent_is_told_how_long_no_frame_is_due(perform: Perform, tmp_path: Path) -> None:
    trace = tmp_path / "camera.txt"
    trace.write_text("0\n1000\n60001000\n60002000\n")
    for changes, pause_ns in (
        ({"arrivals": "trace", "trace_path": str(trace)}, [60_000_000]),
        ({"arrivals": "idle", "idle_gap_ns": 1000}, [1000]),
        ({}, []),
    ):
        said = io.StringIO()
        perform(HostTimed(), said, **changes)
        events = [json.loads(line) for line in said.getvalue().splitlines()]
        assert [event["longest_ns"] for event in events if event["event"] == "pause"] == pause_ns


def test_the_frames_that_arrived_are_counted_by_themselves(perform: Perform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "_PART_ROWS", 10)
    for changes, offered in (
        ({}, 36),
        ({"duration_ns": 0}, 0),
        ({"arrivals": "constant", "rate_mhz": 10**6, "duration_ns": 9_000_001}, 10),
    ):
        assert perform(HostTimed(), **changes)["counters"]["offered_frame_count"] == offered
