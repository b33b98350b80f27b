"""Real worker processes: what they report, the gate, and how they end when memory does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backbench.agent.worker.job import Job
from backbench.agent.worker.table import NOT_REACHED
from backbench.domain.frame import OUTCOME_NUMBERS, FrameOutcome

MakeJob = Callable[..., Job]
Start = Callable[..., Any]
COMPLETED, ERRORED = (OUTCOME_NUMBERS[each] for each in (FrameOutcome.COMPLETED, FrameOutcome.ERRORED))
MB = 1_000_000
LIMIT = 400 * MB

CHANGED = """
from backbench.agent.backends import table
from backbench.agent.backends.onnxruntime import OnnxRuntimeCpu, OrtEngine
class Changed(OrtEngine):
    count = 0
    def infer(self, slot):
        super().infer(slot)
        self.count += 1
        {change}
class Backend(OnnxRuntimeCpu):
    def open(self, request):
        return Changed(request)
table.BACKENDS["onnxruntime"] = Backend
"""
"""A backend whose engine does something of its own in each inference."""


def test_a_timed_launch_reports_its_phases_counters_and_window(make_job: MakeJob, start_worker: Start) -> None:
    worker = start_worker(make_job(frame_count=20, spawned_ns=time.perf_counter_ns()))
    report = worker.end()
    assert worker.process.returncode == 0
    assert report["event"] == "report"
    assert [name for name, _ in report["phases"]] == [
        "process", "interpreter", "import", "load", "inputs", "first_inference", "warmup",
    ]  # fmt: skip
    assert all(length > 0 for _, length in report["phases"])
    counters = report["counters"]
    for name in ("loop_overhead_p50_ns", "loop_overhead_p99_ns", "loop_period_p50_ns", "cpu_time_ns"):
        assert counters[name] > 0
    assert counters["garbage_collection_count"] == 0
    assert {"clock_step_ns", "suspend_ns", "slew_ppb", "minor_fault_count", "major_fault_count"} <= counters.keys()
    columns = worker.frames.columns(0, 25)
    assert columns["tags"] == (1,) * 5 + (0,) * 20
    assert columns["outcome"] == (COMPLETED,) * 25
    assert (report["window_start_ns"], report["window_end_ns"]) == (columns["due_ns"][5], columns["done_ns"][24])
    assert report["frame_error"] is None
    assert "memory" not in report


def test_top_1_is_a_span_of_every_frame(make_job: MakeJob, start_worker: Start) -> None:
    worker = start_worker(make_job(frame_count=5, postprocess="top-1"))
    assert worker.end()["facts"]["postprocess"] == "top-1"
    columns = worker.frames.columns(0, 10)
    assert all(span > 0 for span in columns["postprocess_ns"])
    parts = zip(columns["compute_ns"], columns["postprocess_ns"], strict=True)
    service = zip(columns["dequeued_ns"], columns["done_ns"], strict=True)
    assert all(done - taken >= sum(spans) for (taken, done), spans in zip(service, parts, strict=True))


@pytest.mark.parametrize(
    "arrivals",
    [
        {"arrivals": "constant", "rate_mhz": 200_000},
        {"arrivals": "poisson", "rate_mhz": 200_000},
        {"arrivals": "trace", "trace_path": "trace"},
        {"arrivals": "idle", "idle_gap_ns": 2 * MB},
    ],
    ids=lambda arrivals: str(arrivals["arrivals"]),
)
def test_frames_arrive_as_the_job_says(
    make_job: MakeJob, start_worker: Start, tmp_path: Path, arrivals: dict[str, Any]
) -> None:
    (tmp_path / "trace").write_text("\n".join(str(place * 3 * MB) for place in range(20)))
    if "trace_path" in arrivals:
        arrivals = {**arrivals, "trace_path": str(tmp_path / "trace")}
    worker = start_worker(make_job(frame_count=20, queue_policy="unbounded", **arrivals))
    report = worker.end()
    assert report["event"] == "report"
    columns = worker.frames.columns(5, 25)
    assert columns["outcome"] == (COMPLETED,) * 20
    assert all(due <= seen for due, seen in zip(columns["due_ns"], columns["seen_ns"], strict=True))
    assert all(seen <= taken for seen, taken in zip(columns["seen_ns"], columns["dequeued_ns"], strict=True))
    assert report["window_start_ns"] == columns["due_ns"][0]
    assert worker.frames.columns(0, 5)["seen_ns"] == (NOT_REACHED,) * 5


def test_a_duration_ends_the_window_before_its_frames_do(make_job: MakeJob, start_worker: Start) -> None:
    worker = start_worker(make_job(frame_count=1_000_000, duration_ns=50 * MB))
    report = worker.end()
    rows = worker.frames.written
    assert 5 < rows < 1_000_000
    assert worker.frames.columns(rows - 1, rows)["due_ns"][0] < report["window_start_ns"] + 50 * MB
    assert worker.frames.columns(rows, rows + 1)["outcome"] == (0,)


def test_a_trace_that_cannot_be_used_ends_the_worker_before_the_first_frame(
    make_job: MakeJob, start_worker: Start, tmp_path: Path
) -> None:
    worker = start_worker(make_job(arrivals="trace", trace_path=str(tmp_path / "none")))
    failure = worker.end()
    assert (failure["event"], failure["reason"]) == ("failure", "invalid_input")
    assert worker.frames.written == 0
    assert worker.process.returncode == 1


def test_an_unreadable_image_among_others_is_named_before_the_first_frame(
    make_job: MakeJob, start_worker: Start, photos: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "f00d"
    broken.write_bytes(photos[1].read_bytes()[:2000])
    paths = (str(photos[0]), str(broken), str(photos[2]))
    worker = start_worker(make_job(image_paths=paths, image_names=("a.jpg", "broken.jpg", "c.jpg")))
    failure = worker.end()
    assert (failure["event"], failure["reason"]) == ("failure", "invalid_input")
    assert failure["message"].startswith("broken.jpg: ")
    assert worker.frames.written == 0


def test_a_gated_worker_waits_for_the_word_with_its_warm_up_done(make_job: MakeJob, start_worker: Start) -> None:
    worker = start_worker(make_job(frame_count=20, gated=True))
    while worker.event().get("stage") != "ready":
        pass
    assert worker.frames.written == 5
    asked_ns = time.perf_counter_ns()
    worker.tell("go\n")
    report = worker.end()
    assert report["event"] == "report"
    assert report["window_start_ns"] > asked_ns
    assert worker.frames.written == 25


def test_a_gated_worker_ends_when_its_agent_is_gone(make_job: MakeJob, start_worker: Start) -> None:
    worker = start_worker(make_job(gated=True))
    while worker.event().get("stage") != "ready":
        pass
    worker.process.stdin.close()
    assert worker.end() == {}
    assert worker.process.returncode == 1
    assert worker.frames.written == 5


def test_a_frame_that_raises_is_errored_and_its_words_are_kept(make_job: MakeJob, start_worker: Start) -> None:
    setup = CHANGED.format(change="if self.count == 9: raise RuntimeError('lost the\\ndevice')")
    worker = start_worker(make_job(frame_count=20), setup)
    report = worker.end()
    assert report["frame_error"] == "lost the device"
    outcomes = worker.frames.columns(5, 25)["outcome"]
    assert outcomes.count(ERRORED) == 1
    assert outcomes.count(COMPLETED) == 19


def test_the_memory_pass_has_every_phase_with_figures(make_job: MakeJob, start_worker: Start) -> None:
    report = start_worker(make_job(purpose="memory", postprocess="top-1")).end()
    names = [phase["name"] for phase in report["memory"]]
    assert names == ["interpreter", "import", "load", "inputs", "first_inference", "steady", "after_free"]
    assert report["facts"]["memory_peak"] == "of each phase"
    for phase in report["memory"]:
        assert 0 < phase["figures"]["Uss"] <= phase["figures"]["Pss"]
        assert phase["peak_bytes"] >= phase["resident_bytes"] * 0.95 > 0
        assert phase["figures"]["MemAvailable"] > 0


def test_a_transient_of_50_mb_within_one_inference_is_caught_within_1_mb(
    make_job: MakeJob, start_worker: Start
) -> None:
    setup = CHANGED.format(change="if self.count == 10: b'x' * 50_000_000")
    report = start_worker(make_job(purpose="memory"), setup).end()
    phases = {phase["name"]: phase for phase in report["memory"]}
    before, steady = phases["first_inference"], phases["steady"]
    assert abs(steady["peak_bytes"] - before["resident_bytes"] - 50 * MB) < MB
    assert steady["resident_bytes"] - before["resident_bytes"] < MB
    assert phases["after_free"]["peak_bytes"] < steady["peak_bytes"] - 45 * MB


_BIG_PARENT = """
import os, subprocess, sys
ballast = bytearray(600_000_000)
ballast[::4096] = b"x" * len(ballast[::4096])
job = sys.stdin.readline().replace('"parent_pid": 0', f'"parent_pid": {os.getpid()}')
worker = [sys.executable, "-m", "backbench.agent.worker"]
print(subprocess.run(worker, input=job, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
"""


def test_a_parent_of_600_mb_does_not_show_in_the_first_phase(make_job: MakeJob) -> None:
    job = make_job(purpose="memory").to_json() + "\n"
    parent = [sys.executable, "-c", _BIG_PARENT]
    done = subprocess.run(parent, input=job, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["memory"][0]["name"] == "interpreter"
    assert report["memory"][0]["peak_bytes"] < 40 * MB


def large_model(folder: Path, *, weights: bool) -> str:
    """A model that needs some 800 MB: of weights (a file without any blocks), or for a tensor of an inference."""
    values = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, None),
    ]
    if weights:
        large = TensorProto(name="large", data_type=TensorProto.FLOAT, dims=[16, 12_500_000])
        large.data_location = TensorProto.EXTERNAL
        large.external_data.add(key="location", value="large.bin")
        with (folder / "large.bin").open("wb") as file:
            file.truncate(800 * MB)
        operator = "MatMul"
    else:
        large = numpy_helper.from_array(np.array([260_000, 3, 16, 16], np.int64), "large")
        operator = "Expand"
    nodes = [
        helper.make_node(operator, ["image", "large"], ["product"]),
        helper.make_node("ReduceMean", ["product"], ["output"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "large", values[:1], values[1:], [large])
    path = folder / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.mark.parametrize("purpose", ["timed", "memory"])
@pytest.mark.parametrize(("weights", "phase"), [(True, "load"), (False, "first_inference")])
def test_a_model_that_needs_more_than_the_limit_is_out_of_memory_with_the_phase(
    make_job: MakeJob, start_worker: Start, tmp_path: Path, purpose: str, weights: bool, phase: str
) -> None:
    path = large_model(tmp_path, weights=weights)
    worker = start_worker(make_job(purpose=purpose, model_path=path, memory_limit_bytes=LIMIT))
    failure = worker.end()
    assert (failure["event"], failure["reason"]) == ("failure", "out_of_memory")
    assert failure["message"].startswith(f"out of memory in phase {phase}: ")
    assert failure["message"].endswith("raise --memory-limit")
    assert "\n" not in failure["message"]
    assert worker.process.returncode == 1


@pytest.mark.parametrize(("purpose", "phase"), [("timed", "measure"), ("memory", "steady")])
def test_memory_that_runs_out_in_the_middle_of_the_window_fails_the_run_and_keeps_its_frames(
    make_job: MakeJob, start_worker: Start, purpose: str, phase: str
) -> None:
    setup = CHANGED.format(change="if self.count == 10: b'x' * 500_000_000")
    worker = start_worker(make_job(purpose=purpose, frame_count=50, memory_limit_bytes=LIMIT), setup)
    failure = worker.end()
    assert (failure["event"], failure["reason"]) == ("failure", "out_of_memory")
    assert failure["message"].startswith(f"out of memory in phase {phase}: ")
    if worker.frames is not None:
        assert worker.frames.written == 9
        assert worker.frames.columns(0, 9)["outcome"] == (COMPLETED,) * 8 + (ERRORED,)


def test_a_limit_that_is_enough_changes_nothing_but_the_facts(make_job: MakeJob, start_worker: Start) -> None:
    report = start_worker(make_job(frame_count=20, memory_limit_bytes=LIMIT)).end()
    assert report["event"] == "report"
    assert report["facts"]["memory_limit"] == f"{LIMIT} bytes by RLIMIT_DATA"
