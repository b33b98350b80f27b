"""Reported p50 and p99 over those of a bare ONNX Runtime loop and of MLPerf LoadGen: same model, threads and inputs.

Fresh processes take turns, A B C C B A, so that a drift of the machine falls on all alike.
"""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from agent_process import AgentProcess

from backbench.controller.client import AgentClient
from backbench.controller.push import Upload, push
from backbench.domain.artifact import ArtifactKind
from backbench.domain.event import LaunchReport, RunResult
from backbench.domain.frame import FrameBlock, FrameTag
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import BackendSpec, ImageRef, InputSpec, LaunchPurpose, ModelRef, RunSpec, RunState, Scenario
from backbench.models.catalog import skeleton_path
from backbench.models.skeleton import materialise

_SIZE = 224
_SEED = 0
_FRAMES = {"mobilenetv3_large_100": 400, "resnet50": 100}
_ROUNDS = 2
_P99 = 0.99


def compare(client: AgentClient, agent: AgentProcess) -> list[dict[str, object]]:
    """One row a model and kind of input, with the ratio of medians of the p50 of each process."""
    photos = sorted(Path(str(files("backbench.models") / "photos")).glob("*.jpg"))
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, frames in _FRAMES.items():
            model = Path(folder) / f"{name}.onnx"
            materialise(skeleton_path(name), model, batch=1, height=_SIZE, width=_SIZE)
            for images in ([], photos):
                rows.append(_row(client, agent, name, model, frames, images))
                print(rows[-1], file=sys.stderr)
    return rows


def _row(
    client: AgentClient, agent: AgentProcess, name: str, model: Path, frames: int, images: list[Path]
) -> dict[str, object]:
    times: dict[str, list[list[int]]] = {"reported": [], "bare": [], "loadgen": []}
    agent_cpu_us = []
    threads = 1
    for _ in range(_ROUNDS):
        for side in "ABBA" if images or not _has_loadgen() else "ABCCBA":
            if side == "A":
                before = agent.cpu_time_s
                found, threads = _reported(client, name, frames, images)
                times["reported"].append(found)
                agent_cpu_us.append((agent.cpu_time_s - before) / frames * 1e6)
            elif side == "B":
                times["bare"].append(_elsewhere("bare_loop.py", model, threads, frames, images))
            else:
                times["loadgen"].append(_elsewhere("loadgen_loop.py", model, threads, frames, []))
    return {
        "model": name,
        "inputs": f"{len(images)} photographs, decoded in every frame" if images else "8 tensors",
        "threads": threads,
        **{f"{side}_p50_ms": _level(found, 0.5) for side, found in times.items()},
        **{f"{side}_p99_ms": _level(found, _P99) for side, found in times.items()},
        "ratio": _ratio(times, "bare", 0.5),
        "ratio_p99": _ratio(times, "bare", _P99),
        "ratio_loadgen": _ratio(times, "loadgen", 0.5),
        "ratio_loadgen_p99": _ratio(times, "loadgen", _P99),
        "processes": len(times["reported"]),
        "frames_each": frames,
        "agent_cpu_us_per_frame": statistics.median(agent_cpu_us),
    }


def _level(processes: list[list[int]], quantile: float) -> float | None:
    """The median over processes of each one's nearest-rank percentile, in ms."""
    found = [sorted(times)[math.ceil(len(times) * quantile) - 1] for times in processes]
    return statistics.median(found) / 1e6 if found else None


def _ratio(times: dict[str, list[list[int]]], side: str, quantile: float) -> float | None:
    reported, other = _level(times["reported"], quantile), _level(times[side], quantile)
    return reported / other if reported and other else None


def _has_loadgen() -> bool:
    return importlib.util.find_spec("mlperf_loadgen") is not None


def _reported(client: AgentClient, name: str, frames: int, images: list[Path]) -> tuple[list[int], int]:
    uploads = [Upload(skeleton_path(name), ArtifactKind.SKELETON, name)]
    uploads += [Upload(image, ArtifactKind.IMAGE, image.name) for image in images]
    sha256, *pushed = push(client, uploads)
    spec = RunSpec(
        new_run_id(), ModelRef(name, sha256, "skeleton"), _SIZE, _SIZE, backend=BackendSpec(),
        scenario=Scenario(frame_count=frames, warmup_frame_count=20), memory_pass=False,
        inputs=InputSpec(tuple(ImageRef(i.name, s) for i, s in zip(images, pushed, strict=True)), seed=_SEED),
    )  # fmt: skip
    client.submit_run(spec)
    times: list[int] = []
    threads = 0
    for event in client.watch_run(spec.run_id):
        happening = event.event
        if isinstance(happening, FrameBlock):
            for tag, begun, done in zip(happening.tags, happening.dequeued_ns, happening.done_ns, strict=True):
                if not tag & FrameTag.WARM_UP and begun is not None and done is not None:
                    times.append(done - begun)
        elif isinstance(happening, LaunchReport) and happening.purpose is LaunchPurpose.TIMED:
            threads = int(happening.facts["threads"])
        elif isinstance(happening, RunResult) and happening.state is not RunState.DONE:
            raise SystemExit(f"run failed: {happening.failure}")
    return times, threads


def _elsewhere(name: str, model: Path, threads: int, frames: int, images: list[Path]) -> list[int]:
    script = Path(__file__).with_name(name)
    numbers = map(str, (threads, frames, _SIZE, _SEED))
    command = [sys.executable, str(script), str(model), *numbers, *map(str, images)]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    times: list[int] = json.loads(output)
    return times


def run() -> list[dict[str, object]]:
    """Every row."""
    with AgentProcess() as agent, AgentClient(agent.address) as client:
        return compare(client, agent)


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
