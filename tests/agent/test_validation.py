"""What the agent refuses, by name and range, before a run is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backbench.agent.sampling.lines import Survey
from backbench.agent.validation import FEATURES, check_backend, check_gate, check_spec
from backbench.domain.device import Backend, Limits, SensorChannel, SensorSource
from backbench.domain.errors import InvalidRunSpec
from backbench.domain.identifiers import new_run_id
from backbench.domain.preprocess import Preprocess
from backbench.domain.run import BackendSpec, ImageRef, InputSpec, ModelRef, QueuePolicy, RunSpec, Scenario
from backbench.domain.run import ScenarioName as Name

SPEC = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 224, 224)
SECOND = 10**9
QUEUE: dict[str, Any] = {"queue_policy": QueuePolicy.LATEST, "queue_depth": 1}
PACED = Scenario(Name.PACED, rate_mhz=30_000, **QUEUE)
LIMITS = Limits(memory_limit_floor_bytes=40_000_000)


def test_an_ordinary_specification_passes() -> None:
    check_spec(SPEC, Limits())


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(),
        Scenario(frame_count=None, duration_ns=SECOND),
        PACED,
        replace(PACED, frame_count=None, duration_ns=30 * SECOND, deadline_ns=1),
        Scenario(Name.PACED, rate_mhz=1, queue_policy=QueuePolicy.UNBOUNDED),
        Scenario(Name.POISSON, rate_mhz=10**6, seed=7, **QUEUE),
        Scenario(Name.TRACE, trace_sha256="b" * 64, **QUEUE),
        Scenario(Name.OFFLINE),
        Scenario(Name.STREAMS, streams=64),
        Scenario(Name.STREAMS, streams=2, rate_mhz=30_000, **QUEUE),
        Scenario(Name.SOAK, frame_count=None, duration_ns=600 * SECOND),
        Scenario(Name.SOAK, frame_count=None, duration_ns=600 * SECOND, rate_mhz=30_000, **QUEUE),
        Scenario(Name.IDLE_FIRE),
        Scenario(Name.IDLE_FIRE, idle_gap_ns=3600 * SECOND),
        Scenario(Name.SWEEP, miss_ratio_ppm=10_000, **QUEUE),
    ],
)
def test_every_scenario_passes_with_what_it_needs(scenario: Scenario) -> None:
    check_spec(replace(SPEC, scenario=scenario), LIMITS)


def test_every_scenario_is_announced_and_what_is_beyond_one() -> None:
    assert {f"scenario.{name.value}" for name in Name} < set(FEATURES)
    assert {"launches", "memory-limit", "postprocess", "interleave"} < set(FEATURES)
    assert {"telemetry-sources", "cool-gate", "set-clocks"} < set(FEATURES)
    assert {"backend-options", "engine-build", "layers"} < set(FEATURES)


@pytest.mark.parametrize(
    "change",
    [
        {"launches": 6},
        {"postprocess": "top-1"},
        {"memory_limit_bytes": 40_000_000},
        {"group_id": new_run_id(), "group_size": 8},
        {"telemetry_rate_hz": 0.0},
        {"telemetry_rate_hz": 50.0},
        {"wait_cool_mc": 45_000},
        {"wait_cool_mc": 45_000, "wait_cool_limit_ns": 3600 * SECOND},
        {"regime": "locked", "set_clocks": True},
        {"regime": ""},
        {"extra_sources": ("pmic",)},
    ],
)
def test_launches_limits_groups_telemetry_and_regimes_pass(change: dict[str, Any]) -> None:
    check_spec(replace(SPEC, **change), LIMITS)


def test_any_memory_limit_passes_where_no_floor_is_known() -> None:
    check_spec(replace(SPEC, memory_limit_bytes=1), Limits())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run_id": "42"}, "run_id"),
        ({"height": 0}, "height"),
        ({"width": 20000}, "width"),
        ({"batch": 0}, "batch"),
        ({"launches": 0}, "launches"),
        ({"run_timeout_ns": 5}, "run_timeout_ns"),
        ({"stall_timeout_ns": 0}, "stall_timeout_ns"),
        ({"telemetry_rate_hz": -1.0}, "telemetry_rate_hz"),
        ({"telemetry_rate_hz": float("nan")}, "telemetry_rate_hz"),
        ({"scenario": Scenario(frame_count=0)}, "frame_count"),
        ({"scenario": Scenario(frame_count=None)}, "frame_count"),
        ({"scenario": Scenario(frame_count=10**9)}, "frame_count"),
        ({"scenario": Scenario(warmup_frame_count=-1)}, "warmup_frame_count"),
        ({"scenario": Scenario(Name.PACED, **QUEUE)}, "rate_mhz is 0; it must lie between 1 and 1000000"),
        ({"scenario": replace(PACED, rate_mhz=10**6 + 1)}, "rate_mhz"),
        ({"scenario": Scenario(Name.POISSON, **QUEUE)}, "rate_mhz"),
        ({"scenario": Scenario(Name.SWEEP, rate_mhz=-1, miss_ratio_ppm=1, **QUEUE)}, "rate_mhz is -1"),
        ({"scenario": replace(PACED, queue_policy=None)}, "queue_policy is missing; scenario paced"),
        ({"scenario": replace(PACED, queue_depth=None)}, "queue_depth is 0"),
        ({"scenario": replace(PACED, queue_depth=1025)}, "queue_depth is 1025; it must lie between 1 and 1024"),
        ({"scenario": replace(PACED, deadline_ns=-1)}, "deadline_ns is -1; it must be above 0"),
        ({"scenario": replace(PACED, seed=-1)}, "seed is -1"),
        ({"scenario": Scenario(Name.TRACE, **QUEUE)}, "trace_sha256 is missing"),
        ({"scenario": Scenario(Name.TRACE, trace_sha256="../x", **QUEUE)}, "SHA-256"),
        ({"scenario": Scenario(Name.STREAMS)}, "streams is 0"),
        ({"scenario": Scenario(Name.STREAMS, streams=65)}, "streams is 65"),
        ({"scenario": Scenario(Name.STREAMS, frame_count=10**6, streams=2)}, "of all streams is 2000040"),
        ({"scenario": Scenario(Name.STREAMS, streams=2, rate_mhz=5)}, "queue_policy is missing; scenario streams"),
        ({"scenario": Scenario(Name.SOAK)}, "duration_ns is missing; scenario soak"),
        ({"scenario": Scenario(Name.SOAK, duration_ns=SECOND - 1)}, "duration_ns is 999999999"),
        ({"scenario": Scenario(Name.SOAK, duration_ns=10**15)}, "duration_ns is 10"),
        ({"scenario": replace(PACED, frame_count=None, rate_mhz=10**6, duration_ns=3600 * SECOND)}, "3600000"),
        ({"scenario": replace(PACED, frame_count=None, rate_mhz=-1, duration_ns=SECOND)}, "rate_mhz is -1"),
        ({"scenario": replace(PACED, frame_count=None, rate_mhz=10**12, duration_ns=SECOND)}, "rate_mhz"),
        ({"scenario": Scenario(rate_mhz=30_000)}, "rate_mhz is 30000; scenario closed-loop has no use for it"),
        ({"scenario": Scenario(Name.POISSON, rate_mhz=30_000, duration_ns=SECOND, **QUEUE)}, "duration_ns is 10"),
        ({"scenario": Scenario(Name.SWEEP, None, miss_ratio_ppm=1, duration_ns=SECOND, **QUEUE)}, "scenario sweep has"),
        ({"scenario": Scenario(Name.IDLE_FIRE, idle_gap_ns=-1)}, "idle_gap_ns is -1"),
        ({"scenario": Scenario(Name.IDLE_FIRE, idle_gap_ns=3600 * SECOND + 1)}, "idle_gap_ns"),
        ({"scenario": Scenario(Name.SWEEP, **QUEUE)}, "miss_ratio_ppm is 0; it must lie between 1 and 1000000"),
        ({"scenario": Scenario(Name.SWEEP, miss_ratio_ppm=10**6 + 1, **QUEUE)}, "miss_ratio_ppm"),
        ({"scenario": Scenario(Name.SWEEP, miss_ratio_ppm=1, **QUEUE), "launches": 2}, "scenario sweep are its steps"),
        ({"scenario": Scenario(Name.STREAMS, streams=2), "launches": 2}, "scenario streams are its steps"),
        ({"postprocess": "top-5"}, 'postprocess "top-5" is unknown; take "top-1"'),
        ({"memory_limit_bytes": 39_999_999}, "a worker without a model holds 40000000 bytes"),
        ({"group_id": new_run_id()}, "group_id and group_size go together"),
        ({"group_size": 2}, "group_id and group_size go together"),
        ({"group_id": new_run_id(), "group_size": 9}, "group_size is 9; it must lie between 0 and 8"),
        ({"group_id": new_run_id(), "group_size": -1}, "group_size is -1"),
        ({"group_id": "x" * 65, "group_size": 2}, "group_id has 65 characters"),
        ({"inputs": InputSpec(seed=-1)}, "seed of the inputs is -1"),
        ({"regime": "loose"}, 'regime "loose" is none of as-shipped, locked'),
        ({"backend": BackendSpec(threads=-1)}, "threads"),
        ({"model": ModelRef("m", "../x", "file")}, "SHA-256"),
        ({"model": ModelRef("m", "a" * 64, "pickle")}, "pickle"),
        ({"model": ModelRef("m", "a" * 64, "file", reference_sha256="../x")}, "SHA-256"),
        ({"model": ModelRef("m", "a" * 64, "file", "int4")}, "int4"),
        ({"inputs": InputSpec((ImageRef("x", "y"),))}, "SHA-256"),
        ({"inputs": InputSpec(tuple(ImageRef("x", "a" * 64) for _ in range(2000)))}, "images"),
        ({"inputs": InputSpec(synthetic_count=0)}, "synthetic_count"),
        ({"preprocess": Preprocess(mean=(0.5, 0.5))}, "mean"),  # type: ignore[arg-type]
        ({"preprocess": Preprocess(std=(0.5, 0.0, 0.5))}, "std"),
        ({"preprocess": Preprocess(std=(0.5, float("nan"), 0.5))}, "std"),
        ({"preprocess": Preprocess(crop_ratio=0.0)}, "crop_ratio"),
        ({"preprocess": Preprocess(interpolation="magic")}, "interpolation"),  # type: ignore[arg-type]
        ({"telemetry_rate_hz": 50.1}, "telemetry_rate_hz"),
        ({"wait_cool_mc": 0}, "wait_cool_mc"),
        ({"wait_cool_mc": 150_001}, "wait_cool_mc"),
        ({"wait_cool_mc": 45_000, "wait_cool_limit_ns": 1}, "wait_cool_limit_ns"),
        ({"wait_cool_mc": 45_000, "wait_cool_limit_ns": 3601 * SECOND}, "wait_cool_limit_ns"),
        ({"wait_cool_limit_ns": SECOND}, "without wait_cool_mc"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_out_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRunSpec, match=words) as caught:
        check_spec(replace(SPEC, **change), LIMITS)
    assert "\n" not in str(caught.value)


def test_a_wait_for_a_cool_device_needs_a_temperature() -> None:
    source = SensorSource("thermal", "read")
    hot = SensorChannel("temp.tj", "mC", "test")
    check_gate(Survey((source,), (hot,)))
    check_gate(Survey())  # nothing is known of this device
    for channels in ((), (replace(hot, available=False),), (replace(hot, name="power.total"),)):
        with pytest.raises(InvalidRunSpec, match="shows no temperature to wait for"):
            check_gate(Survey((source,), channels))


def test_options_and_precisions_that_a_backend_takes_pass() -> None:
    backend = Backend("b", available=True, options=("dla", "sync"), engine_precisions=("fp16",))
    check_backend(BackendSpec("b"), backend)
    check_backend(BackendSpec("b", options={"dla": "0", "sync": "spin"}, precision="fp16"), backend)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"fancy": "1"}}, 'backend b has no option "fancy"; its options: dla'),
        ({"options": {"dla": ""}}, "value of 1 to 64 characters"),
        ({"options": {"dla": "0\n"}}, "value of 1 to 64 characters"),
        ({"options": {"dla": "0" * 65}}, "value of 1 to 64 characters"),
        ({"precision": "int8"}, "it chooses: fp16"),
    ],
)
def test_options_and_precisions_that_a_backend_does_not_take_are_named(change: dict[str, Any], words: str) -> None:
    backend = Backend("b", available=True, options=("dla",), engine_precisions=("fp16",))
    with pytest.raises(InvalidRunSpec, match=words) as caught:
        check_backend(BackendSpec("b", **change), backend)
    assert "\n" not in str(caught.value)


def test_a_backend_without_options_says_so() -> None:
    with pytest.raises(InvalidRunSpec, match="its options: none"):
        check_backend(BackendSpec("b", options={"dla": "0"}), Backend("b", available=True))
