"""What a run's frames say, scenario by scenario, in the document and in words."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from backbench.controller.report.document import build
from backbench.controller.report.text import run_summary
from backbench.controller.store import RunRecord
from backbench.controller.store.columns import frame_table, masked_columns
from backbench.domain.event import LaunchReport, MemoryPhase, Phase, RunResult
from backbench.domain.frame import OUTCOME_NUMBERS, FrameBlock, FrameOutcome
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import (
    FailureReason,
    LaunchPurpose,
    ModelRef,
    QueuePolicy,
    RunFailure,
    RunSpec,
    RunState,
    Scenario,
    ScenarioName,
)
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn

DONE = OUTCOME_NUMBERS[FrameOutcome.COMPLETED]
SUPERSEDED = OUTCOME_NUMBERS[FrameOutcome.SUPERSEDED]
PACED = Scenario(
    ScenarioName.PACED, 1000, 0, rate_mhz=100_000, queue_policy=QueuePolicy.LATEST, queue_depth=1, deadline_ns=10**7
)
COUNTERS = {"loop_overhead_p50_ns": 500, "loop_overhead_p99_ns": 900, "loop_period_p50_ns": 700}
NOISE = {"noise_floor": 0.02, "measured": "2026-01-01", "telemetry": {"difference": 0.001}}


def block(
    count: int = 1000, launch: int = 0, stream: int = 0, service_ns: int = 5_000_000, dropped: Sequence[int] = ()
) -> FrameBlock:
    """Frames 10 ms apart whose time varies by a few hundred ns, some of them dropped."""
    rows = range(count)
    due = tuple(launch * 10**12 + row * 10_000_000 for row in rows)
    kept = [row not in dropped for row in rows]
    times = [service_ns + row * 7919 % 200 for row in rows]
    return FrameBlock(
        launch=launch,
        stream=stream,
        index=tuple(rows),
        due_ns=due,
        dequeued_ns=tuple(time if keep else None for time, keep in zip(due, kept, strict=True)),
        done_ns=tuple(start + time if keep else None for start, time, keep in zip(due, times, kept, strict=True)),
        outcome=tuple(DONE if keep else SUPERSEDED for keep in kept),
        tags=(0,) * count,
        input=(0,) * count,
        seen_ns=due,
        compute_ns=tuple(time if keep else None for time, keep in zip(times, kept, strict=True)),
    )


def report(launch: int = 0, stream: int = 0, **counters: int) -> LaunchReport:
    return LaunchReport(
        launch, LaunchPurpose.TIMED, facts={"threads": "1"}, counters={**COUNTERS, **counters}, stream=stream
    )


def document(
    scenario: Scenario,
    blocks: Sequence[FrameBlock],
    launches: Sequence[LaunchReport],
    *,
    budgets: tuple[str, ...] = (),
    telemetry: Sequence[TelemetryBlock] = (),
    failure: RunFailure | None = None,
    noise: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    spec = RunSpec(new_run_id(), ModelRef("resnet50", "a" * 64, "skeleton"), 224, 224, scenario=scenario, **changes)
    state = RunState.DONE if failure is None else RunState.FAILED
    record = RunRecord(spec.run_id, "lab1", None, spec, state, budgets, 10**18)
    frames = masked_columns(frame_table(blocks))
    return build(record, RunResult(state, failure), launches, frames, telemetry, {}, noise)


def printed(made: Mapping[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=110, record=True)
    console.print(run_summary(made))
    return console.export_text()


def test_drops_and_misses_of_a_camera_are_told_and_judged() -> None:
    made = document(PACED, [block(dropped=range(100, 130))], [report()], budgets=("drops<=1%", "p99<=30ms"))
    assert made["frames"] == {"offered": 1000, "completed": 970, "dropped": 30, "errored": 0}
    assert made["pipeline"] == "e2e"
    assert made["load"]["drop_ratio"]["value"] == 0.03
    assert made["load"]["longest_drop_run"] == 30
    assert made["load"]["miss_ratio"]["value"] == 0.03
    assert [row["verdict"] for row in made["budgets"]] == ["reject", "pass"]
    words = printed(made)
    assert "paced, 100 fps, queue latest 1" in words
    assert "at most 30 in a row" in words
    assert "misses" in words


def test_a_closed_loop_has_no_load_and_no_other_scenario_s_parts() -> None:
    made = document(Scenario(), [block()], [report()])
    assert [made[part] for part in ("load", "soak", "sweep", "streams")] == [None] * 4
    assert (made["outcome"], made["pipeline"]) == ("done", "service")
    service = made["latency_ms"]["service"]
    assert service["p50"]["value"] <= service["p50"]["upper"] <= service["max"]
    assert 0 < service["n_eff"] <= service["n"] == 1000
    assert made["images_per_s"] == made["throughput_fps"]


def test_a_warm_up_that_the_fixed_count_missed_is_cut_and_said() -> None:
    slow = block(3000)
    done = tuple(
        end + (3_000_000 * (150 - row) // 150 if row < 150 else 0)
        for row, end in enumerate(slow.done_ns)
        if end is not None
    )
    warm = replace(slow, done_ns=done)
    made = document(Scenario(), [warm], [report()])
    (row,) = made["steady"]
    assert row["kind"] == "warm-up"
    assert 50 < row["cut_frames"] < 1000
    assert made["latency_ms"]["service"]["n"] == 3000 - row["cut_frames"]
    assert made["frames"]["completed"] == 3000
    assert "more frames were a transient" in printed(made)


def test_a_step_in_mid_run_is_unstable_and_no_frame_is_left_out() -> None:
    second = block(1500, service_ns=5_200_000)
    times = {
        name: tuple(None if time is None else time + 1500 * 10_000_000 for time in getattr(second, name))
        for name in ("due_ns", "dequeued_ns", "done_ns", "seen_ns")
    }
    shifted = replace(second, index=tuple(row + 1500 for row in second.index), **times)  # type: ignore[arg-type]
    made = document(Scenario(), [block(1500), shifted], [report()])
    assert made["validity"]["status"] == "unstable"
    assert made["steady"][0]["cut_frames"] == 0
    assert made["latency_ms"]["service"]["n"] == 3000


def test_launches_are_told_apart_and_their_spread_is_judged() -> None:
    blocks = [block(500, 0, service_ns=5_000_000), block(500, 1, service_ns=5_600_000)]
    made = document(Scenario(frame_count=500), blocks, [report(0), report(1)])
    assert [row["launch"] for row in made["launches"]["rows"]] == [0, 1]
    assert made["launches"]["spread"] == pytest.approx(0.12, abs=0.001)
    assert "launches_differ" in [reason["code"] for reason in made["validity"]["reasons"]]
    assert "2, p50 from 5.00 to 5.60 ms" in printed(made)


def test_a_sweep_s_latencies_are_those_of_the_highest_rate_that_held() -> None:
    scenario = Scenario(
        ScenarioName.SWEEP, 100, 0, queue_policy=QueuePolicy.LATEST, queue_depth=1, miss_ratio_ppm=20_000
    )
    blocks = [block(100, 0), block(100, 1, dropped=range(30)), block(100, 2, dropped=(5,)), block(100, 3)]
    rates = {1: 200_000, 2: 100_000, 3: 50_000}
    reports = [report(0), *(report(launch, rate_mhz=rate) for launch, rate in rates.items())]
    made = document(scenario, blocks, reports)
    assert made["sweep"]["highest_fps"] == 100.0
    assert [(row["rate_fps"], row["held"]) for row in made["sweep"]["rows"]] == [(200, False), (100, True), (50, True)]
    assert made["latency_ms"]["e2e"]["n"] == 99
    assert made["load"]["deadline_ms"] == 10.0
    assert made["frames"]["offered"] == 400
    assert "100.00 fps is the highest rate" in printed(made)
    none = document(scenario, [block(100, 1, dropped=range(50))], [report(1, rate_mhz=200_000)])
    assert none["sweep"]["highest_fps"] is None
    assert "No rate that was tried" in printed(none)
    nothing = document(scenario, [], [], failure=RunFailure(FailureReason.WORKER_CRASHED, "the worker died"))
    assert "No rate" not in printed(nothing)


def test_streams_say_how_many_engines_keep_the_budgets() -> None:
    scenario = Scenario(ScenarioName.STREAMS, 500, 0, streams=2)
    blocks = [block(500, 0), *(block(500, 1, stream, service_ns=9_000_000) for stream in range(2))]
    held = {"peak_resident_bytes": 80_000_000}
    reports = [
        report(0, stream_count=1, **held),
        report(1, 0, stream_count=2, **held),
        report(1, 1, stream_count=2, **held),
    ]
    made = document(scenario, blocks, reports, budgets=("p50<=6ms", "memory<=100MB"))
    assert [row["streams"] for row in made["streams"]["rows"]] == [1, 2]
    assert [row["memory_mb"] for row in made["streams"]["rows"]] == [80.0, 160.0]
    assert [row["verdict"] for row in made["streams"]["rows"]] == ["pass", "reject"]
    assert made["streams"]["most_fitting"] == 1
    assert made["latency_ms"]["service"]["n"] == 1000
    assert "1 at once keep the budget" in printed(made)
    assert (made["budgets"][1]["value"], made["verdict"]) == (160.0, "reject")
    assert made["launches"]["count"] == 1  # engines side by side are no repetitions
    assert "launches" not in printed(made)
    lost = document(scenario, blocks[:2], reports[:2])  # the second engine of the second step never reported
    assert [row["streams"] for row in lost["streams"]["rows"]] == [1]


def test_a_step_that_did_not_measure_a_budget_does_not_keep_it() -> None:
    scenario = Scenario(ScenarioName.STREAMS, 100, 0, streams=1)
    reports = [report(0, stream_count=1, peak_resident_bytes=80_000_000)]
    made = document(scenario, [block(100)], reports, budgets=("p99<=6ms", "memory<=100MB"))
    assert made["streams"]["rows"][0]["verdict"] == "unknown"  # 100 frames carry no p99
    assert made["streams"]["most_fitting"] is None
    assert "not measured." in printed(made)


def test_a_budget_on_a_percentile_that_is_not_carried_says_what_is_known() -> None:
    few = document(Scenario(frame_count=100), [block(100)], [report()], budgets=("p99<=1ms", "p99<=20ms"))
    broken, unsure = few["budgets"]
    assert (broken["value"], broken["verdict"], unsure["verdict"]) == (None, "reject", "unknown")
    words = " ".join(printed(few).split())
    assert f"p99 is at least {broken['at_least']:.4g} ms, more than 1 ms" in words
    assert "too few independent frames to say whether it is within 20 ms" in words


def test_engines_that_lose_frames_of_their_cameras_do_not_keep_a_budget_on_drops() -> None:
    scenario = replace(PACED, name=ScenarioName.STREAMS, streams=2)
    blocks = [block(500, 0), *(block(500, 1, stream, dropped=range(100)) for stream in range(2))]
    reports = [report(0, stream_count=1), *(report(1, stream, stream_count=2) for stream in range(2))]
    made = document(scenario, blocks, reports, budgets=("drops<=1%", "compute.p50<=6ms", "cold_start<=9s"))
    assert [row["drop_ratio"]["value"] for row in made["streams"]["rows"]] == [0.0, 0.2]
    assert [row["verdict"] for row in made["streams"]["rows"]] == ["pass", "reject"]
    assert made["streams"]["most_fitting"] == 1


def test_a_soak_has_a_curve_and_slopes_of_latency_and_of_the_worker_s_memory() -> None:
    scenario = Scenario(ScenarioName.SOAK, None, 0, duration_ns=120 * 10**9)
    samples = tuple(second * 10**9 for second in range(120))
    grown = TelemetryColumn("proc.anonymous", "B", tuple(10**8 + 1000 * second for second in range(120)))
    made = document(scenario, [block(12_000)], [report()], telemetry=[TelemetryBlock(samples, (grown,))])
    (launch,) = made["soak"]["launches"]
    assert [row["minute"] for row in launch["minutes"]] == [0, 1]
    assert launch["memory_growth"]["bytes_per_hour"]["value"] == pytest.approx(3.6e6, rel=1e-3)
    assert abs(launch["latency_drift"]["per_hour"]) < 0.01
    assert "MB an hour" in printed(made)


def test_memory_that_ran_out_is_the_outcome() -> None:
    failure = RunFailure(FailureReason.OUT_OF_MEMORY, "out of memory in phase load: bad_alloc; raise --memory-limit")
    made = document(Scenario(), [], [], failure=failure, memory_limit_bytes=256_000_000, budgets=("memory<=256MB",))
    assert (made["state"], made["outcome"], made["memory_limit_mb"]) == ("failed", "out_of_memory", 256.0)
    assert made["latency_ms"]["service"] is None
    assert made["verdict"] == "unknown"
    assert "out of memory in phase load" in printed(made)


def test_what_is_left_after_the_engine_is_closed_is_not_the_peak() -> None:
    phases = (MemoryPhase("load", 90_000_000, 80_000_000), MemoryPhase("after_free", 95_000_000, 60_000_000))
    memory = LaunchReport(0, LaunchPurpose.MEMORY, memory=phases)
    made = document(Scenario(), [block()], [memory, report()])
    assert made["memory_mb"]["peak"] == 90.0
    assert made["memory_mb"]["phases"]["after_free"]["resident"] == 60.0


def test_every_figure_of_memory_is_kept_and_one_that_the_kernel_lacks_is_no_zero() -> None:
    phases = (MemoryPhase("load", 90_000_000, 80_000_000, {"Pss": 70_000_000, "memory.peak": 95_000_000}),)
    made = document(Scenario(), [block()], [LaunchReport(0, LaunchPurpose.MEMORY, memory=phases), report()])
    assert made["memory_mb"]["phases"]["load"]["figures"] == {"Pss": 70.0, "memory.peak": 95.0}
    assert "90.0 MB resident at its highest (VmHWM), in load" in printed(made)
    untold = LaunchReport(0, LaunchPurpose.MEMORY, memory=(MemoryPhase("load", None, None), *phases))
    made = document(Scenario(), [block()], [untold, report()], budgets=("memory<=256MB",))
    assert made["memory_mb"]["peak"] is None
    assert made["verdict"] == "unknown"
    assert "the kernel does not tell" in printed(made)


def test_the_cold_start_and_the_counters_of_every_launch_are_kept() -> None:
    cold = [(Phase("import", 10**8), Phase("load", length)) for length in (5 * 10**8, 2 * 10**8)]
    reports = [replace(report(launch, major_fault_count=launch), phases=cold[launch]) for launch in range(2)]
    made = document(Scenario(), [block(500, 0), block(500, 1)], reports)
    assert made["cold_start_ms"]["total"] == 600.0
    assert [row["cold_start_ms"]["total"] for row in made["per_launch"]] == [600.0, 300.0]
    assert [row["counters"]["major_fault_count"] for row in made["per_launch"]] == [0, 1]
    assert "600 ms (import 100, load 500); 300 to 600 in 2 workers" in printed(made)


def test_the_p99_of_all_that_arrived_is_shown_where_frames_were_lost() -> None:
    made = document(PACED, [block(dropped=range(100, 130))], [report()])
    assert "without end: more than 1 %" in printed(made)
    few = document(PACED, [block(dropped=range(100, 105))], [report()])
    assert "5.00 ms over all frames that arrived" in printed(few)
    assert "p99 offered" not in printed(document(PACED, [block()], [report()]))


def test_reasons_count_the_frames_that_the_latencies_are_of() -> None:
    scenario = Scenario(ScenarioName.SWEEP, 100, 0, queue_policy=QueuePolicy.LATEST, queue_depth=1, miss_ratio_ppm=1)
    made = document(scenario, [block(100, 0), block(900, 1)], [report(0, rate_mhz=100_000), report(1, rate_mhz=1000)])
    (p99,) = [row["detail"] for row in made["validity"]["reasons"] if row["detail"].startswith("p99 ")]
    assert p99.endswith("here are 100")


def test_the_cost_of_measuring_is_in_every_document() -> None:
    plain = document(Scenario(), [block()], [report()])["overhead"]
    assert (plain["loop_overhead_p50_us"], plain["loop_overhead_p99_us"], plain["loop_period_p50_us"]) == (
        0.5,
        0.9,
        0.7,
    )
    assert plain["noise_floor"] is plain["telemetry_difference"] is None
    known = document(Scenario(), [block()], [report()], noise=NOISE)
    assert (known["overhead"]["noise_floor"], known["overhead"]["telemetry_difference"]) == (0.02, 0.001)
    assert "noise floor 2.0 %" in printed(known)
    old = document(Scenario(), [block()], [LaunchReport(0, LaunchPurpose.TIMED, facts={})])
    assert old["overhead"]["loop_overhead_p50_us"] is None


@pytest.mark.parametrize("wrong", ["missing", "twice", "unknown"])
def test_a_frame_that_is_not_accounted_for_makes_a_run_invalid(wrong: str) -> None:
    fine = block(100)
    blocks = {
        "missing": [block(99)],
        "twice": [fine, fine],
        "unknown": [replace(fine, outcome=(0, *fine.outcome[1:]))],
    }
    made = document(Scenario(frame_count=100), blocks[wrong], [report()])
    assert "frames_unaccounted" in [row["code"] for row in made["validity"]["reasons"]]
    assert made["validity"]["status"] == "invalid"
    right = document(Scenario(frame_count=100), [fine], [report()])
    assert right["validity"]["status"] != "invalid"


def test_frames_that_an_engine_ran_alone_are_no_part_of_streams() -> None:
    scenario = Scenario(ScenarioName.STREAMS, None, 0, streams=2)
    made = document(
        scenario,
        [block(500, 0, 0), block(400, 0, 1)],
        [report(0, 0, stream_count=2), report(0, 1, stream_count=2)],
    )
    assert made["frames"]["completed"] == 900
    assert made["latency_ms"]["service"]["n"] == 800


def test_the_frames_that_a_cold_start_took_to_become_steady_are_told() -> None:
    made = document(Scenario(warmup_frame_count=20), [block()], [report()])
    assert made["frames_to_steady"] == 20
    assert document(Scenario(), [], [])["frames_to_steady"] is None
