"""Spans, counts and throughput out of the columns of frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from backbench.controller.analysis.comparison import compare
from backbench.controller.analysis.latency import (
    Sequences,
    counts,
    distribution_ms,
    sequences,
    spans_ns,
    throughput_fps,
    timed,
)

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


def only(span: Sequences | None) -> set[int]:
    """The different values of a span of one sequence."""
    assert span is not None
    (times,) = span
    return set(times.tolist())


def test_service_is_the_sum_of_its_parts_and_the_gap() -> None:
    spans = spans_ns(columns())
    assert only(spans["e2e"]) == {5_000_001}
    assert only(spans["service"]) == {4_999_994}
    assert only(spans["queue_delay"]) == {7}
    assert only(spans["host_gap"]) == {999_994}
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


def test_each_launch_and_stream_is_a_sequence_of_its_own() -> None:
    frames = columns(rows=10, warm_up=0)
    frames["done_ns"] = frames["done_ns"] + np.arange(10)
    frames["launch"] = np.ma.MaskedArray(np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0]))
    frames["stream"] = np.ma.MaskedArray(np.array([0, 1, 0, 1, 0, 1, 0, 0, 0, 0]))
    service = spans_ns(frames)["service"]
    assert service is not None
    assert [list(each - 4_999_994) for each in service] == [[6, 7, 8, 9], [0, 2, 4], [1, 3, 5]]
    assert list(sequences(frames, timed(frames))) == [(0, 0), (1, 0), (1, 1)]


def test_a_transient_is_cut_from_every_span_and_from_its_launch_alone() -> None:
    frames = columns(rows=10, warm_up=2)
    frames["launch"] = np.ma.MaskedArray(np.arange(10) // 5)
    spans = spans_ns(frames, {(0, 0): 2})
    assert [len(each) for each in spans["service"] or ()] == [1, 5]
    assert {len(span) for span in spans.values() if span is not None} == {2}
    assert spans_ns(frames, {(0, 0): 9, (1, 0): 9})["service"] is None


def test_a_percentile_comes_with_its_upper_bound_or_not_at_all() -> None:
    scattered = (np.arange(500) * 309 % 500 + 1) * 1_000_000  # every value once, neighbours far apart
    told = distribution_ms((scattered,))
    assert told is not None
    assert list(told) == [
        "n", "n_eff", "mean", "p50", "p90", "p95", "p99", "p99.9", "early_stopping", "min", "max", "outliers",
    ]  # fmt: skip
    assert (told["n"], told["n_eff"]) == (500, 500)
    assert told["p99"] == {"value": 495.0, "upper": 500.0}
    assert 450 < told["p90"]["upper"] < 480
    assert told["p99.9"] is None
    assert told["early_stopping"] == {"p90": 467.0, "p95": 488.0, "p99": None}


def test_458_frames_give_no_p99_and_459_do() -> None:
    few, enough = (distribution_ms((np.full(count, 5_000_000),)) for count in (458, 459))
    assert few is not None
    assert few["p99"] is None
    assert enough is not None
    assert enough["p99"] == {"value": 5.0, "upper": 5.0}


def test_launches_add_up_to_what_one_cannot_carry_and_drifting_frames_do_not_count_in_full() -> None:
    launch = np.full(230, 5_000_000)
    assert (distribution_ms((launch,)) or {})["p99"] is None
    both = distribution_ms((launch, launch)) or {}
    assert (both["n"], both["n_eff"], both["p99"]) == (460, 460, {"value": 5.0, "upper": 5.0})
    drifting = distribution_ms((np.arange(5000) + 5_000_000,)) or {}
    assert drifting["n"] == 5000
    assert drifting["n_eff"] < 20
    assert drifting["p99"] is None


def test_no_frames_have_no_distribution() -> None:
    assert distribution_ms(None) is None
    assert distribution_ms((np.zeros(0, np.int64),)) is None


def test_ten_hours_in_lose_no_nanosecond() -> None:
    frames = columns(rows=1000, warm_up=0)
    shift = 36_000 * 10**9
    for name in ("due_ns", "dequeued_ns", "done_ns"):
        frames[name] = frames[name] + shift
    assert only(spans_ns(frames)["service"]) == {4_999_994}
    assert (distribution_ms(spans_ns(frames)["service"]) or {})["p50"] == {"value": 4.999994, "upper": 4.999994}


def test_throughput_is_completed_frames_over_the_time_they_took() -> None:
    fps = throughput_fps(columns(rows=10, warm_up=0))
    assert fps is not None
    assert abs(fps - 10 / ((9 * 10_000_000 + 4_999_994) / 1e9)) < 1e-9
    assert throughput_fps(columns(rows=2, warm_up=2)) is None


def test_streams_of_a_launch_add_to_its_throughput_and_launches_do_not() -> None:
    one = columns(rows=10, warm_up=0)
    twice = {
        name: np.ma.MaskedArray(np.tile(column.data, 2), mask=np.tile(np.ma.getmaskarray(column), 2))
        for name, column in one.items()
    }
    second = np.ma.MaskedArray(np.arange(20) // 10)
    fps = throughput_fps(one)
    assert fps is not None
    assert throughput_fps({**twice, "stream": second}) == 2 * fps
    assert throughput_fps({**twice, "launch": second}) == fps


def document(**changes: Any) -> dict[str, Any]:
    service = {"p50": {"value": 10.0}, "p99": None, "mean": 10.5, "max": 20.0}
    return {
        "latency_ms": {"service": service, "preprocess": None, "compute": None},
        "throughput_fps": 95.0,
        "memory_mb": None,
        "cold_start_ms": None,
        "model": {"name": "resnet50", "size": [224, 224]},
        "backend": {"name": "onnxruntime"},
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
