"""Whether a run's numbers may be believed, and why not.

Every finding is a reason with a code, and has a weight: what makes the numbers wrong is `invalid`, what makes them hard
to repeat `unstable`, what nobody could see `unverified`; a note changes nothing. The heaviest decides. Nothing is left
out of the data because of it, and what could not be read never counts as good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STATUSES = ("ok", "unverified", "unstable", "invalid")
"""From light to heavy."""
SPREAD_LIMIT = 0.05
DEPENDENCE_LIMIT = 0.05
LOOP_SHARE_LIMIT = 0.01
FEWEST_INPUTS = 8
_STEADY = ("flat", "warm-up", "too-short")

_WEIGHTS = {
    "run_not_done": "invalid",
    "output_mismatch": "invalid",
    "frames_unaccounted": "invalid",
    "suspended": "invalid",
    "swapped": "invalid",
    "garbage_collected": "invalid",
    "not_cool": "invalid",
    "clocks_not_pinned": "invalid",
    "clock_policy_changed": "invalid",
    "throttled": "unstable",
    "slowdown": "unstable",
    "no_steady_state": "unstable",
    "dependent_frames": "unstable",
    "launches_differ": "unstable",
    "loop_noisy": "unstable",
    "pacer_late": "unstable",
    "throttle_not_observed": "unverified",
    "telemetry_gaps": "unverified",
    "clocks_not_observed": "unverified",
    "counters_unreadable": "unverified",
    "outputs_not_checked": "unverified",
    "frames_errored": "ok",
    "insufficient_frames": "ok",
    "clock_step": "ok",
    "near_saturation": "ok",
    "few_inputs": "ok",
    "simulated": "ok",
    "fallback_used": "ok",
    "dla_fallback": "ok",
}
_LOCKED_WEIGHTS = {**_WEIGHTS, "throttled": "invalid"}
"""Of a run whose clocks were to stay where they were pinned."""
LOCKED = "locked"
_NEEDED = ("major_fault_count", "garbage_collection_count", "suspend_ns", "clock_step_ns")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run's validity is judged by; None or empty where it was not measured.

    `unaccounted` frames are missing, there twice, or ended in no known way. `steady` has the kind of every launch that
    the latencies are of, `counters` theirs, `dependence` is n_eff / n of their service times, `spread` the largest
    launch's median over the smallest's less 1, `service` the distribution of the service times in ms. `load` and
    `outputs` are the document's parts of that name, `clock_range_ppm` is how far the delivered processor clocks moved,
    `reference` whether a reference was named, `input_count` how many inputs are cycled, `cause` what was
    said last of a run that did not end well. `thermal`, `clocks` and `cool_gate` are the document's parts of that name,
    `gaps` the seconds by source in which it was not read, `simulation` the name of the recording that is replayed,
    `engine` the document's part of that name.
    """

    state: str
    counts: Mapping[str, int]
    unaccounted: int = 0
    insufficient: Mapping[str, int] = field(default_factory=dict)
    steady: Sequence[str] = ()
    dependence: float | None = None
    spread: float | None = None
    counters: Sequence[Mapping[str, int]] = ()
    service: Mapping[str, Any] | None = None
    load: Mapping[str, Any] | None = None
    clock_range_ppm: int | None = None
    outputs: Mapping[str, Any] | None = None
    reference: bool = False
    input_count: int | None = None
    cause: str = ""
    regime: str = ""
    thermal: Mapping[str, Any] | None = None
    clocks: Mapping[str, Any] | None = None
    cool_gate: Mapping[str, Any] | None = None
    gaps: Mapping[str, float] = field(default_factory=dict)
    simulation: str = ""
    engine: Mapping[str, Any] | None = None


def judge_validity(evidence: Evidence) -> dict[str, Any]:
    """`ok`, `unverified`, `unstable` or `invalid`, with reasons {code, detail}, the heaviest first."""
    weights = _LOCKED_WEIGHTS if evidence.regime == LOCKED else _WEIGHTS
    reasons = [{"code": code, "detail": detail} for code, detail in _findings(evidence)]
    reasons.sort(key=lambda reason: -STATUSES.index(weights[reason["code"]]))
    status = max((weights[reason["code"]] for reason in reasons), key=STATUSES.index, default="ok")
    return {"status": status, "reasons": reasons}


def mismatch(check: Mapping[str, Any]) -> str:
    """In words, how far an output that failed its check is from its reference."""
    name, error = check["name"], check["max_relative_error"]
    if not check["finite"]:
        return f"output {name} is missing, has another shape or holds numbers that are not finite"
    if error is None:
        return f"output {name} has no relative error, as its reference is 0 everywhere and it is not"
    return f"output {name} is off by {error:.2g} of the reference's largest number, more than {check['tolerance']:g}"


def _findings(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if evidence.state != "done":
        cause = f": {evidence.cause}" if evidence.cause else ""
        yield "run_not_done", f"the run is {evidence.state}{cause}"
    yield from _of_outputs(evidence)
    yield from _of_engine(evidence.engine or {})
    yield from _of_frames(evidence)
    yield from _of_counters(evidence)
    yield from _of_steadiness(evidence)
    yield from _of_load(evidence)
    yield from _of_heat(evidence)
    yield from _of_clocks(evidence)
    if evidence.simulation:
        yield "simulated", f"the telemetry is a replay of {evidence.simulation}; only the frames are real"


def _of_outputs(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for check in evidence.outputs["checks"] if evidence.outputs else ():
        if not check["passed"]:
            yield "output_mismatch", mismatch(check)
    if evidence.reference and evidence.outputs is None and evidence.state == "done":
        yield (
            "outputs_not_checked",
            "the agent did not compare the outputs with the reference; update Backbench on the device",
        )


def _of_engine(engine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if fallen := engine.get("fallback"):
        yield "fallback_used", f"a part of the model ran elsewhere than asked, as --allow-fallback allows: {fallen}"
    dla = engine.get("dla") or {}
    if dla.get("fallback"):
        count = dla["fallback_layers"]
        layers = "layers" if count is None else f"{count} layer{'s' if count != 1 else ''}"
        yield "dla_fallback", f"the GPU ran {layers} that the DLA core cannot: {dla['fallback']}"


def _of_frames(evidence: Evidence) -> Iterator[tuple[str, str]]:
    counts = evidence.counts
    if evidence.unaccounted and evidence.state == "done":
        yield "frames_unaccounted", f"{evidence.unaccounted} frames are missing, there twice, or ended in no known way"
    if evidence.input_count is not None and evidence.input_count < FEWEST_INPUTS:
        yield "few_inputs", f"{evidence.input_count} inputs are cycled; with fewer than {FEWEST_INPUTS} caches flatter"
    if counts["errored"]:
        yield "frames_errored", f"{counts['errored']} of {counts['offered']} frames failed"
    for name, need in evidence.insufficient.items():
        counted = evidence.service["n"] if evidence.service else 0
        yield "insufficient_frames", f"{name} needs {need} frames, here are {counted}"


def _of_counters(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if not evidence.counters:
        return
    total = {
        name: sum(abs(counters.get(name, 0)) for counters in evidence.counters)
        for name in {name for counters in evidence.counters for name in counters}
    }
    missing = [name for name in _NEEDED if any(name not in counters for counters in evidence.counters)]
    if missing:
        yield "counters_unreadable", f"not read in every launch: {', '.join(missing)}"
    if total.get("suspend_ns", 0) > 1_000_000:
        yield "suspended", f"the device slept for {total['suspend_ns'] / 1e9:.1f} s in the middle"
    if pages := total.get("swap_in_page_count", 0) + total.get("swap_out_page_count", 0):
        yield "swapped", f"{pages} pages were swapped while frames were timed; free some memory"
    if count := total.get("garbage_collection_count", 0):
        yield "garbage_collected", f"{count} garbage collections ran in the timed window"
    if total.get("clock_step_ns", 0) > 10_000_000:
        yield (
            "clock_step",
            f"the system's clock was set by {total['clock_step_ns'] / 1e9:.1f} s; no latency depends on it",
        )
    yield from _of_loop(evidence)


def _of_loop(evidence: Evidence) -> Iterator[tuple[str, str]]:
    median = (evidence.service or {}).get("p50")
    overheads = [
        counters["loop_overhead_p99_ns"] for counters in evidence.counters if "loop_overhead_p99_ns" in counters
    ]
    if median is None or not overheads:
        return
    worst_ms = max(overheads) / 1e6
    if worst_ms > LOOP_SHARE_LIMIT * median["value"]:
        share = worst_ms / median["value"] * 100
        yield "loop_noisy", f"the loop's own p99 of {worst_ms * 1e3:.0f} us is {share:.1f} % of the median"


def _of_heat(evidence: Evidence) -> Iterator[tuple[str, str]]:
    thermal, gate = evidence.thermal or {}, evidence.cool_gate
    if gate is not None and not gate["cool"]:
        reached = "could not be read" if gate["end_c"] is None else f"was still {gate['end_c']:.1f} °C"
        yield "not_cool", f"after {gate['waited_s']:.0f} s the device {reached}; {gate['limit_c']:g} °C was asked for"
    if thermal.get("throttled"):
        named = ", ".join(row["name"] for row in thermal["witnesses"] if row["throttled"])
        share = thermal["throttled_share"]
        frames = "" if share is None else f"; up to {share * 100:.0f} % of the frames are of such times"
        yield "throttled", f"the device held its clocks back, by {named}{frames}"
    elif thermal.get("throttled") is None:
        yield "throttle_not_observed", _unseen(thermal, evidence.clock_range_ppm)


def _unseen(thermal: Mapping[str, Any], clock_range_ppm: int | None) -> str:
    """What is missing for a verdict on throttling."""
    read = [row["name"] for row in thermal.get("witnesses", ())]
    said = f"no witness of heat was read, only {', '.join(read)}" if read else "no witness of throttling was read"
    if clock_range_ppm is not None:
        said += f"; the processors' clocks moved by {clock_range_ppm / 1e4:.1f} %"
    return said


def _of_clocks(evidence: Evidence) -> Iterator[tuple[str, str]]:
    clocks = evidence.clocks or {}
    if evidence.regime == LOCKED and not (pinned := clocks.get("pinned")):
        if pinned is None:
            yield "clocks_not_observed", "whether the clocks were pinned, as regime locked wants them, was not read"
        else:
            yield "clocks_not_pinned", "regime locked needs pinned clocks, and they were not; add --set-clocks"
    for change in clocks.get("policy_changes", ()):
        words = f"{change['channel']} went from {change['from']} to {change['to']} after {change['at_s']:.1f} s"
        yield "clock_policy_changed", f"somebody changed what the clocks may do: {words}"
    if evidence.gaps:
        missing = ", ".join(f"{source} for {seconds:.1f} s" for source, seconds in evidence.gaps.items())
        yield "telemetry_gaps", f"not read while frames were timed: {missing}"


def _of_steadiness(evidence: Evidence) -> Iterator[tuple[str, str]]:
    kinds = evidence.steady
    for kind in sorted({kind for kind in kinds if kind not in _STEADY}):
        times = kinds.count(kind)
        where = "" if len(kinds) == 1 else f" in {times} of {len(kinds)} launches"
        words = "frames became slower and stayed so" if kind == "slowdown" else "frames settled on no level"
        yield kind.replace("-", "_"), f"{words}{where}"
    if evidence.dependence is not None and evidence.dependence < DEPENDENCE_LIMIT:
        share = evidence.dependence * 100
        yield "dependent_frames", f"the frames are worth {share:.1f} % as many independent ones"
    if evidence.spread is not None and evidence.spread > SPREAD_LIMIT:
        yield "launches_differ", f"the slowest launch's median is {evidence.spread * 100:.1f} % above the fastest's"


def _of_load(evidence: Evidence) -> Iterator[tuple[str, str]]:
    load = evidence.load or {}
    if load.get("pacer_late"):
        late = load["pacer_lateness_ms"]["p99"]
        yield "pacer_late", f"arrivals were seen up to {late:.2f} ms late (p99), more than 1 % of the period"
    if (use := load.get("utilisation")) is not None and use > 0.8:
        yield "near_saturation", f"the worker is busy {use * 100:.0f} % of the time: queueing makes the tail"
