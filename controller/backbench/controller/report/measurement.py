"""What the frames of a run say: which launches count, from when on they were steady, and the parts of the document.

Every part is made from the raw frames, so that a document can be made anew with better statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.budgets import pipeline_span
from backbench.controller.analysis.drift import latency_drift, memory_growth, minute_curve
from backbench.controller.analysis.latency import (
    SPANS,
    Columns,
    SequenceKey,
    completed,
    counts,
    distribution_ms,
    ended,
    sequences,
    spans_ns,
    throughput_fps,
    timed,
    unaccounted,
    values,
)
from backbench.controller.analysis.latency import (
    of_launches as _each_launch,
)
from backbench.controller.analysis.launches import launch_spread
from backbench.controller.analysis.load import load_document
from backbench.controller.analysis.percentiles import insufficient
from backbench.controller.analysis.steady import Steadiness, steadiness
from backbench.domain.event import LaunchReport
from backbench.domain.frame import DROPPED
from backbench.domain.run import RunSpec, Scenario, ScenarioName
from backbench.domain.telemetry import WORKER_MEMORY, TelemetryBlock


@dataclass(frozen=True, slots=True)
class Measurement:
    """The parts of a document that come from frames; a part that the scenario does not have is None.

    `headline` has the numbers of the launches that the latencies are of. `steady` is by launch and stream.
    """

    headline: tuple[int, ...]
    unaccounted: int
    latency_ms: Mapping[str, Any]
    insufficient: Mapping[str, int]
    steady: Mapping[SequenceKey, Steadiness]
    launches: Mapping[str, Any] | None
    throughput_fps: float | None
    load: Mapping[str, Any] | None
    soak: Mapping[str, Any] | None
    sweep: Mapping[str, Any] | None
    streams: Mapping[str, Any] | None

    def steady_rows(self) -> list[dict[str, Any]]:
        """For the document: what became of each launch."""
        return [
            {
                "launch": launch,
                "stream": stream,
                "kind": found.kind,
                "cut_frames": found.start,
                "drift": found.drift,
                "half_shift": found.half_shift,
                "segments": [{"from_frame": first, "p50_ms": median / 1e6} for first, median in found.segments],
            }
            for (launch, stream), found in self.steady.items()
        ]


def measure(
    spec: RunSpec, frames: Columns, launches: Sequence[LaunchReport], telemetry: Sequence[TelemetryBlock]
) -> Measurement:
    """Everything that the frames say. `launches` are the timed ones."""
    scenario = spec.scenario
    sweep = _sweep(scenario, frames, _rates_mhz(launches)) if scenario.name is ScenarioName.SWEEP else None
    streams = _streams(scenario, frames, launches) if scenario.name is ScenarioName.STREAMS else None
    headline = _headline(frames, sweep, streams)
    whole = of_launches(frames, headline)
    chosen = whole if streams is None else _at_once(whole)
    service = spans_ns(chosen)["service"] or ()
    steady = dict(zip(_keys(chosen) if service else [], map(steadiness, service), strict=True))
    spans = spans_ns(chosen, {key: found.start for key, found in steady.items()})
    latency_ms = {name: distribution_ms(spans[name]) for name in SPANS}
    pipeline = latency_ms[pipeline_span(scenario)]
    return Measurement(
        headline=headline,
        unaccounted=unaccounted(whole, scenario.frame_count),
        latency_ms=latency_ms,
        insufficient=insufficient(pipeline["n"], pipeline["n_eff"]) if pipeline else insufficient(0),
        steady=steady,
        launches=_spread(dict(zip(steady, spans["service"] or (), strict=True))),
        throughput_fps=throughput_fps(chosen),
        load=_load(scenario, chosen, sweep),
        soak=_soak(chosen, telemetry) if scenario.name is ScenarioName.SOAK else None,
        sweep=sweep,
        streams=streams,
    )


def _headline(frames: Columns, sweep: Mapping[str, Any] | None, streams: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Of a sweep the highest rate that held, of streams the most engines that ran, else every launch."""
    if sweep is not None and sweep["rows"]:
        held = [row for row in sweep["rows"] if row["held"]]
        row = (
            max(held, key=lambda row: row["rate_fps"]) if held else min(sweep["rows"], key=lambda row: row["rate_fps"])
        )
        return (row["launch"],)
    if streams is not None and streams["rows"]:
        return (streams["rows"][-1]["launch"],)
    return tuple(sorted({launch for launch, _ in sequences(frames, timed(frames))}))


def of_launches(frames: Columns, launches: Sequence[int]) -> Columns:
    """The frames of these launches."""
    kept = np.isin(np.ma.getdata(frames["launch"]), launches)
    return {name: column[kept] for name, column in frames.items()}


def _at_once(frames: Columns) -> Columns:
    """The timed frames of the time in which all engines were at work: the slowest one ends with less company."""
    groups = list(sequences(frames, timed(frames)).values())
    due = np.ma.getdata(frames["due_ns"])
    done = np.where(np.ma.getmaskarray(frames["done_ns"]), due, np.ma.getdata(frames["done_ns"]))
    if len(groups) < 2:
        return frames
    start = max(int(due[rows].min()) for rows in groups)
    end = min(int(done[rows].max()) for rows in groups)
    kept = timed(frames) & (due >= start) & (done <= end)
    return {name: column[kept] for name, column in frames.items()}


def _keys(frames: Columns) -> list[SequenceKey]:
    """The launches and streams that `spans_ns` has a sequence for, in its order."""
    return list(sequences(frames, timed(frames) & completed(frames)))


def _rates_mhz(launches: Sequence[LaunchReport]) -> dict[int, int]:
    return {each.launch: each.counters["rate_mhz"] for each in launches if "rate_mhz" in each.counters}


def _spread(service: Mapping[SequenceKey, NDArray[np.int64]]) -> dict[str, Any] | None:
    launches = _each_launch(service)
    found = launch_spread(list(launches.values()))
    if found is None:
        return None
    rows = [{"launch": launch, **row} for launch, row in zip(launches, found.pop("launches"), strict=True)]
    return {**found, "rows": rows}


def _load(scenario: Scenario, frames: Columns, sweep: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not scenario.open_loop:
        return None
    rate_mhz = scenario.rate_mhz
    if sweep is not None and sweep["rows"]:
        of_headline = {launch for launch, _ in sequences(frames, timed(frames))}
        rate_mhz = next((row["rate_mhz"] for row in sweep["rows"] if row["launch"] in of_headline), rate_mhz)
    return load_document(frames, deadline_ns=scenario.deadline_at(rate_mhz), period_ns=_period_ns(scenario, rate_mhz))


def _period_ns(scenario: Scenario, rate_mhz: int | None) -> int | None:
    constant = scenario.name not in (ScenarioName.POISSON, ScenarioName.TRACE)
    return 10**12 // rate_mhz if constant and rate_mhz else None


def _sweep(scenario: Scenario, frames: Columns, rates_mhz: Mapping[int, int]) -> dict[str, Any]:
    """Every rate that was tried, in order, and the highest that held."""
    tolerated = (scenario.miss_ratio_ppm or 0) / 1e6
    rows = []
    for launch, rate_mhz in sorted(rates_mhz.items()):
        of_launch = of_launches(frames, (launch,))
        if not counts(of_launch)["offered"]:
            continue
        load = load_document(
            of_launch, deadline_ns=scenario.deadline_at(rate_mhz), period_ns=_period_ns(scenario, rate_mhz)
        )
        missed = load["miss_ratio"]
        rows.append(
            {
                "launch": launch,
                "rate_fps": rate_mhz / 1000,
                "rate_mhz": rate_mhz,
                "frames": counts(of_launch),
                "miss_ratio": missed,
                "drop_ratio": load["drop_ratio"],
                "held": None if missed is None else missed["value"] <= tolerated,
            }
        )
    held = [row["rate_fps"] for row in rows if row["held"]]
    return {"highest_fps": max(held, default=None), "tolerated_miss_ratio": tolerated, "rows": rows}


def _streams(scenario: Scenario, frames: Columns, launches: Sequence[LaunchReport]) -> dict[str, Any]:
    """What so many engines at once do, each step a row; a step counts when all of its engines reported."""
    rows = []
    for launch in sorted({each.launch for each in launches}):
        reports = [each for each in launches if each.launch == launch]
        asked = reports[0].counters.get("stream_count", len(reports))
        chosen = _at_once(of_launches(frames, (launch,)))
        spans = spans_ns(chosen)
        if len(reports) < asked:
            continue
        load = _load(scenario, chosen, None) or {}
        peaks = [each.counters.get("peak_resident_bytes") for each in reports]
        known = [peak for peak in peaks if peak is not None]
        rows.append(
            {
                "launch": launch,
                "streams": asked,
                "latency_ms": {name: distribution_ms(spans[name]) for name in SPANS},
                "miss_ratio": load.get("miss_ratio"),
                "drop_ratio": load.get("drop_ratio"),
                "throughput_fps": throughput_fps(chosen),
                "memory_mb": sum(known) / 1e6 if len(known) == len(peaks) else None,
            }
        )
    return {"rows": rows}


def _soak(frames: Columns, telemetry: Sequence[TelemetryBlock]) -> dict[str, Any]:
    """Minute by minute, one curve a launch, and the slopes of latency and of the worker's memory."""
    rows, kept = [], timed(frames) & completed(frames)
    for (launch, stream), places in sequences(frames, kept).items():
        begun, done = values(frames, "dequeued_ns", places), values(frames, "done_ns", places)
        if begun is None or done is None or len(done) == 0:
            continue
        dropped = sequences(frames, timed(frames) & ended(frames, *DROPPED)).get((launch, stream))
        arrivals = None if dropped is None else values(frames, "due_ns", dropped)
        fps = (len(done) - 1) / ((done[-1] - done[0]) / 1e9) if len(done) > 1 else None
        rows.append(
            {
                "launch": launch,
                "minutes": minute_curve(done, done - begun, arrivals),
                "latency_drift": latency_drift(done, done - begun),
                "memory_growth": _memory_growth(telemetry, int(begun[0]), int(done[-1]), fps),
            }
        )
    return {"launches": rows}


def _memory_growth(
    telemetry: Sequence[TelemetryBlock], start_ns: int, end_ns: int, fps: float | None
) -> dict[str, Any] | None:
    samples = [
        (time, value)
        for block in telemetry
        for column in block.columns
        if column.channel == WORKER_MEMORY
        for time, value in zip(block.time_ns, column.values, strict=True)
        if value is not None and start_ns <= time <= end_ns
    ]
    if not samples:
        return None
    times, sizes = (np.array(each, np.int64) for each in zip(*samples, strict=True))
    return memory_growth(times, sizes, fps)
