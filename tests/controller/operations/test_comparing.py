"""Whether a difference between two runs is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backbench.controller.operations.comparing import compare_runs


class Frames:
    """A store of runs whose launches have normally distributed times around a level, in ms."""

    def __init__(self, **levels: float) -> None:
        self._levels = levels

    def frame_columns(self, run_id: str) -> dict[str, Any]:
        rows = 6 * 400
        random = np.random.default_rng(sum(map(ord, run_id)))
        times = (self._levels[run_id] * 1e6 * (1 + 0.01 * random.standard_normal(rows))).astype(np.int64)
        start = np.arange(rows) * 10**8
        plain = np.ma.MaskedArray
        return {
            "launch": plain(np.repeat(np.arange(6), 400)),
            "stream": plain(np.zeros(rows, np.int64)),
            "tags": plain(np.zeros(rows, np.int64)),
            "outcome": plain(np.ones(rows, np.int64)),
            "due_ns": plain(start),
            "dequeued_ns": plain(start),
            "done_ns": plain(start + times),
        }


def run(name: str, launches: int = 6, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": name,
        "model": {"name": name, "size": [224, 224]},
        "backend": {"name": "onnxruntime"},
        "device": {"simulated": False},
        "contract": {"threads": "1"},
        "fingerprint": {"board": "pi"},
        "pipeline": "service",
        "latency_ms": {"service": None, "preprocess": None, "compute": None},
        "throughput_fps": None,
        "memory_mb": None,
        "cold_start_ms": None,
        "steady": [{"launch": launch, "stream": 0, "cut_frames": 0} for launch in range(launches)],
        "overhead": {"noise_floor": None},
        **changes,
    }


@pytest.mark.parametrize(
    ("second", "verdict"), [(5.5, "slower"), (4.5, "faster"), (5.001, "equivalent"), (5.05, "inconclusive")]
)
def test_a_difference_beyond_the_margin_is_told_from_one_within_it(second: float, verdict: str) -> None:
    result = compare_runs(Frames(a=5.0, b=second), [run("a"), run("b")])  # type: ignore[arg-type]
    (effect,) = result["effects"]
    assert (effect["run"], effect["verdict"]) == ("b", verdict)
    assert effect["low"] < effect["ratio"] < effect["high"]


def test_a_noisy_device_needs_a_larger_difference() -> None:
    noisy = {"overhead": {"noise_floor": 0.2}}
    result = compare_runs(Frames(a=5.0, b=5.5), [run("a"), run("b", **noisy)])  # type: ignore[arg-type]
    assert result["effects"][0]["verdict"] == "equivalent"
    assert result["effects"][0]["noise_floor"] == 0.2


def test_where_environments_differ_there_is_no_verdict_unless_it_is_asked_for() -> None:
    documents = [run("a"), run("b", contract={"threads": "4"})]
    result = compare_runs(Frames(a=5.0, b=5.5), documents)  # type: ignore[arg-type]
    assert result["differences"] == [{"field": "contract.threads", "values": ["1", "4"]}]
    assert result["effects"][0]["verdict"] is None
    across = compare_runs(Frames(a=5.0, b=5.5), documents, across=True)  # type: ignore[arg-type]
    assert across["effects"][0]["verdict"] == "slower"


def test_a_simulated_device_gets_no_verdict_beside_a_real_one_whatever_is_asked_for() -> None:
    documents = [run("a"), run("b", device={"simulated": True, "simulation": "rpi5-bookworm"})]
    result = compare_runs(Frames(a=5.0, b=5.5), documents, across=True)  # type: ignore[arg-type]
    assert result["differences"] == [{"field": "device.simulation", "values": [None, "rpi5-bookworm"]}]
    assert (result["simulation_differs"], result["effects"][0]["verdict"]) == (True, None)


def test_one_launch_a_side_is_inconclusive_and_an_old_document_has_no_effect() -> None:
    one = compare_runs(Frames(a=5.0, b=5.5), [run("a", 1), run("b", 1)])  # type: ignore[arg-type]
    assert (one["effects"][0]["verdict"], one["effects"][0]["low"]) == ("inconclusive", None)
    old = run("b")
    del old["steady"]
    assert compare_runs(Frames(a=5.0, b=5.5), [run("a"), old])["effects"][0]["ratio"] is None  # type: ignore[arg-type]


def test_engines_side_by_side_are_one_launch() -> None:
    class Streams(Frames):
        def frame_columns(self, run_id: str) -> dict[str, Any]:
            columns = super().frame_columns(run_id)
            return {**columns, "launch": columns["stream"], "stream": columns["launch"]}

    steady = [{"launch": 0, "stream": stream, "cut_frames": 0} for stream in range(6)]
    result = compare_runs(Streams(a=5.0, b=5.5), [run("a", steady=steady), run("b", steady=steady)])  # type: ignore[arg-type]
    assert (result["effects"][0]["verdict"], result["effects"][0]["low"]) == ("inconclusive", None)


def test_the_rows_are_of_the_span_that_the_ratio_is_of() -> None:
    waiting = {"service": {"mean": 5.0}, "e2e": {"mean": 9.0}, "preprocess": None, "compute": None}
    for each in ("service", "e2e"):
        waiting[each] = {**dict.fromkeys(("p50", "p99")), **waiting[each], "max": None}  # type: ignore[dict-item]
    documents = [run(name, pipeline="e2e", latency_ms=waiting) for name in ("a", "b")]
    rows = {row["metric"]: row["values"] for row in compare_runs(Frames(a=9.0, b=9.0), documents)["rows"]}  # type: ignore[arg-type]
    assert rows["mean"] == [9.0, 9.0]


def test_backends_are_what_is_compared_where_the_model_is_the_same() -> None:
    model = {"name": "resnet50", "size": [224, 224]}
    cpu = {"threads": "4", "spin": "yes", "compute": "time of the call", "batch": 1, "precision": "fp16"}
    gpu = {"providers": "TensorRT", "compute": "events of the device", "batch": 1, "engine_precision": "fp16"}
    documents = [
        run("a", model=model, contract=cpu),
        run("b", model=model, backend={"name": "tensorrt"}, contract=gpu),
    ]
    frames: Any = Frames(a=5.0, b=2.5)
    result = compare_runs(frames, documents)
    assert (result["compared"], result["differences"], result["comparable"]) == ("backend", [], True)
    assert result["effects"][0]["verdict"] == "faster"
    documents[1]["contract"] = {**gpu, "batch": 8}
    differing = compare_runs(frames, documents)
    assert differing["differences"] == [{"field": "contract.batch", "values": [1, 8]}]
    assert differing["effects"][0]["verdict"] is None


def test_another_model_by_another_backend_is_no_comparison_of_either() -> None:
    documents = [run("a", contract={"providers": "CPU"}), run("b", backend={"name": "x"}, contract={"providers": "X"})]
    result = compare_runs(Frames(a=5.0, b=5.5), documents)  # type: ignore[arg-type]
    assert (result["compared"], result["comparable"]) == ("model", False)
