"""What telemetry costs: one sample of everything on each recorded board and on this machine, and a run's latency.

A recorded board is read from memory, so its figures are those of the agent's own work; what the hardware adds, an agent
says of itself (`backbench-agent sensors`). The latency is of two runs of a group whose launches take turns, one with
telemetry and one without; a ratio is the geometric mean over the pairs of launches, with Student's 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from agent_process import AgentProcess
from latency import percentile, ratio

from backbench.agent.sensors.simulations import known_simulations
from backbench.agent.sensors.table import make_sources
from backbench.agent.sensors.trees import open_tree
from backbench.controller.client import AgentClient
from backbench.controller.push import Upload, push
from backbench.domain.artifact import ArtifactKind
from backbench.domain.event import RunResult
from backbench.domain.frame import FrameBlock, FrameTag
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import BackendSpec, ModelRef, RunSpec, RunState, Scenario
from backbench.models.catalog import skeleton_path

_READS = 200
_MODEL = "mobilenetv3_large_100"
_SIZE = 224
_FRAMES = 700
_ROUNDS = 12
_RATE_HZ = 10.0
LIVE = "this machine"


def sample_costs(reads: int = _READS) -> list[dict[str, Any]]:
    """Microseconds that one read of every source takes, by board, and the share of a core at the sources' rates."""
    return [_cost(LIVE, "", reads), *(_cost(name, name, reads) for name in known_simulations())]


def _cost(board: str, simulation: str, reads: int) -> dict[str, Any]:
    tree = open_tree(simulation, time.perf_counter_ns())
    sources = {source.name: source for source in make_sources(tree) if source.probe().channels}
    costs: dict[str, float] = {}
    for name, source in sources.items():
        times = []
        for _ in range(reads):
            before = time.perf_counter_ns()
            source.read()
            times.append(time.perf_counter_ns() - before)
        costs[name] = statistics.median(times[1:]) / 1000
    share = sum(costs[name] * source.rate_hz for name, source in sources.items()) / 10**6
    for source in sources.values():
        source.close()
    tree.close()
    return {"board": board, "sample_us": sum(costs.values()), "core_permille": share * 1000, "source_us": costs}


def latency(frames: int = _FRAMES, rounds: int = _ROUNDS) -> dict[str, Any]:
    """The p50 and p99 of a run with telemetry over those of one without."""
    with AgentProcess() as agent, AgentClient(agent.address) as client:
        (sha256,) = push(client, [Upload(skeleton_path(_MODEL), ArtifactKind.SKELETON, _MODEL)])
        group_id = new_run_id()
        specs = {
            side: RunSpec(
                new_run_id(), ModelRef(_MODEL, sha256, "skeleton"), _SIZE, _SIZE, backend=BackendSpec(threads=1),
                scenario=Scenario(frame_count=frames, warmup_frame_count=20), memory_pass=False, launches=rounds,
                telemetry_rate_hz=rate_hz, group_id=group_id, group_size=2,
            )
            for side, rate_hz in (("on", _RATE_HZ), ("off", 0.0))
        }  # fmt: skip
        for spec in specs.values():
            client.submit_run(spec)
        times = {side: _launches(client, spec) for side, spec in specs.items()}
    levels = {
        (side, quantile): [percentile(launch, quantile) / 1e6 for launch in launches]
        for side, launches in times.items()
        for quantile in (0.5, 0.99)
    }
    return {
        "model": _MODEL,
        "rate_hz": _RATE_HZ,
        "rounds": rounds,
        "frames_each": frames,
        **{f"{side}_p50_ms": statistics.median(levels[side, 0.5]) for side in times},
        **{f"{side}_p99_ms": statistics.median(levels[side, 0.99]) for side in times},
        "on_over_off_p50": ratio(levels["on", 0.5], levels["off", 0.5]),
        "on_over_off_p99": ratio(levels["on", 0.99], levels["off", 0.99]),
    }


def _launches(client: AgentClient, spec: RunSpec) -> list[list[int]]:
    """The nanoseconds of every timed frame, by launch."""
    launches: dict[int, list[int]] = {}
    for event in client.watch_run(spec.run_id):
        happening = event.event
        if isinstance(happening, FrameBlock):
            rows = zip(happening.tags, happening.dequeued_ns, happening.done_ns, strict=True)
            launches.setdefault(happening.launch, []).extend(
                done - begun for tag, begun, done in rows if not tag & FrameTag.WARM_UP and begun and done
            )
        elif isinstance(happening, RunResult) and happening.state is not RunState.DONE:
            raise SystemExit(f"run failed: {happening.failure}")
    return [launches[number] for number in sorted(launches)]


def run() -> dict[str, Any]:
    """Both."""
    return {"samples": sample_costs(), "latency": latency()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=_FRAMES, help="timed frames a launch")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="pairs of launches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    results = {"samples": sample_costs(), "latency": latency(options.frames, options.rounds)}
    json.dump(results, sys.stdout, indent=2)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
