"""Spans, counts and throughput out of the columns of frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from backbench.controller.analysis.budgets import judge, overall
from backbench.controller.analysis.comparison import compare
from backbench.controller.analysis.latency import counts, distribution_ms, spans_ns, throughput_fps

BASE = 2**60  # where float64 would have lost the nanoseconds


def columns(rows: int = 10, warm_up: int = 2, errored: tuple[int, ...] = ()) -> dict[str, Any]:
    index = np.arange(rows)
    start = BASE + index * 10_000_000
    outcome = np.where(np.isin(index, errored), 5, 1)
    absent = outcome == 5
    column = np.ma.MaskedArray
    return {
        "launch": column(np.zeros(rows, np.int64)),
        "tags": column((index < warm_up).astype(np.int64)),
        "outcome": column(outcome),
        "due_ns": column(start),
        "dequeued_ns": column(start + 7),
        "done_ns": column(start + 5_000_001, mask=absent),
        "preprocess_ns": column(np.full(rows, 1_000_000), mask=absent),
        "compute_ns": column(np.full(rows, 3_000_000), mask=absent),
        "host_to_device_ns": column(np.zeros(rows, np.int64), mask=True),
    }


def test_service_is_the_sum_of_its_parts_and_the_gap() -> None:
    spans = spans_ns(columns())
    assert spans["e2e"] is not None and set(spans["e2e"]) == {5_000_001}
    assert spans["service"] is not None and set(spans["service"]) == {4_999_994}
    assert spans["queue_delay"] is not None and set(spans["queue_delay"]) == {7}
    assert spans["host_gap"] is not None and set(spans["host_gap"]) == {999_994}
    assert spans["host_to_device"] is None
    assert spans["postprocess"] is None


def test_warm_up_is_left_out_and_errored_frames_are_counted_but_have_no_spans() -> None:
    frames = columns(errored=(3, 4))
    assert counts(frames) == {"offered": 8, "completed": 6, "dropped": 0, "errored": 2}
    service = distribution_ms(spans_ns(frames)["service"])
    assert service is not None
    assert service["n"] == 6
    assert service["p50"] is None  # 6 samples cannot carry it
    assert service["max"] == 4.999994


def test_throughput_is_completed_frames_over_the_time_they_took() -> None:
    fps = throughput_fps(columns(rows=10, warm_up=0))
    assert fps is not None
    assert abs(fps - 10 / ((9 * 10_000_000 + 4_999_994) / 1e9)) < 1e-9
    assert throughput_fps(columns(rows=2, warm_up=2)) is None


def test_budgets_are_judged_on_the_whole_pipeline_and_unknown_is_not_a_pass() -> None:
    service = distribution_ms(np.full(20, 12_000_000))
    rows = judge(["p50<=10ms", "p99<=10ms", "memory<=100MB", "max<=11ms"], service, 99.0)
    assert [row["verdict"] for row in rows] == ["reject", "unknown", "pass", "over"]
    assert rows[1]["value"] is None
    assert overall(rows) == "reject"
    assert overall([]) is None


def document(**changes: Any) -> dict[str, Any]:
    service = {"p50": {"value": 10.0}, "p99": None, "mean": 10.5, "max": 20.0}
    return {
        "latency_ms": {"service": service, "preprocess": None, "compute": None},
        "throughput_fps": 95.0,
        "memory_mb": None,
        "cold_start_ms": None,
        "device": {"simulated": False},
        "contract": {"hash": "1", "threads": "1", "size": [224, 224]},
        "fingerprint": {"hash": "2", "kernel": "6"},
        **changes,
    }


def test_runs_compare_when_only_the_model_differs() -> None:
    compared = compare([document(), document(contract={"hash": "9", "threads": "1", "size": [96, 96]})])
    assert compared["comparable"]
    rows = {row["metric"]: row for row in compared["rows"]}
    assert rows["p50"]["ratios"] == [1.0, 1.0]
    assert rows["p99"]["values"] == [None, None]


def test_another_number_of_threads_or_kernel_or_a_simulated_device_forbids_a_verdict() -> None:
    threads = compare([document(), document(contract={"hash": "9", "threads": "2", "size": [224, 224]})])
    assert threads["differences"] == [{"field": "contract.threads", "values": ["1", "2"]}]
    kernel = compare([document(), document(fingerprint={"hash": "9", "kernel": "7"})])
    assert kernel["differences"] == [{"field": "fingerprint.kernel", "values": ["6", "7"]}]
    assert not compare([document(), document(device={"simulated": True})])["comparable"]
