"""Reported p50 and p99 over those of a bare ONNX Runtime loop and of MLPerf LoadGen: same model, threads and inputs.

The processes of a round are there at the same time and take turns, one running while the others are stopped: on a
shared machine the speed of a processor changes within seconds, by more than what is looked for. The frame in which a
process was stopped is longer than a turn and left out, for all alike. Where a process lies in memory makes a difference
too, so there are several rounds of fresh ones; a ratio is their geometric mean, with Student's 95 % interval.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
from agent_process import AgentProcess
from scipy.stats import t as student_t

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
_ROUNDS = 6
_FRAMES = {"mobilenetv3_large_100": 700, "resnet50": 60}
_TURN_S = {"mobilenetv3_large_100": 0.5, "resnet50": 2.0}
_P99 = 0.99


def compare(client: AgentClient, agent: AgentProcess) -> list[dict[str, Any]]:
    """One row a model and kind of input, with the ratios and their intervals."""
    photos = sorted(Path(str(files("backbench.models") / "photos")).glob("*.jpg"))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as threads:
        for name in _FRAMES:
            model = Path(folder) / f"{name}.onnx"
            materialise(skeleton_path(name), model, batch=1, height=_SIZE, width=_SIZE)
            for images in ([], photos):
                rows.append(_row(client, agent, _Case(name, model, images), threads))
                print(rows[-1], file=sys.stderr)
    return rows


@dataclass(frozen=True)
class _Case:
    name: str
    model: Path
    images: list[Path]

    @property
    def frames(self) -> int:
        return _FRAMES[self.name]


def _row(client: AgentClient, agent: AgentProcess, case: _Case, threads: ThreadPoolExecutor) -> dict[str, Any]:
    rounds = [_round(client, agent, case, threads) for _ in range(_ROUNDS)]
    sides = list(rounds[0])
    levels = {
        (side, quantile): [percentile(each[side], quantile) / 1e6 for each in rounds]
        for side in sides
        for quantile in (0.5, _P99)
    }
    pairs = [("reported", side) for side in sides[1:]] + [("bare", side) for side in sides[2:]]
    return {
        "model": case.name,
        "inputs": f"{len(case.images)} photographs, decoded in every frame" if case.images else "8 tensors",
        "rounds": _ROUNDS,
        "frames_each": case.frames,
        **{f"{side}_p50_ms": statistics.median(levels[side, 0.5]) for side in sides},
        **{f"{side}_p99_ms": statistics.median(levels[side, _P99]) for side in sides},
        **{f"{a}_over_{b}_p50": ratio(levels[a, 0.5], levels[b, 0.5]) for a, b in pairs},
        **{f"{a}_over_{b}_p99": ratio(levels[a, _P99], levels[b, _P99]) for a, b in pairs},
    }


def _round(client: AgentClient, agent: AgentProcess, case: _Case, threads: ThreadPoolExecutor) -> dict[str, list[int]]:
    """The nanoseconds of every side's frames, the reported ones first."""
    scripts = {"bare": "bare_loop.py"}
    if not case.images and importlib.util.find_spec("mlperf_loadgen") is not None:
        scripts["loadgen"] = "loadgen_loop.py"
    with _others(scripts, case) as others:
        reported = threads.submit(_reported, client, case)
        worker = _worker_of(agent, reported)
        outputs = {side: threads.submit(process.communicate, b"go\n") for side, process in others.items()}
        for process in others.values():
            os.kill(process.pid, signal.SIGSTOP)
        waiting: dict[int, Future[Any]] = {worker: reported}
        waiting.update({process.pid: outputs[side] for side, process in others.items()})
        _take_turns(waiting, _TURN_S[case.name])
        times = {side: json.loads(output.result()[0]) for side, output in outputs.items()}
    turn_ns = _TURN_S[case.name] * 1e9
    sides = {"reported": reported.result(), **times}
    return {side: [each for each in found if each < turn_ns] for side, found in sides.items()}


@contextmanager
def _others(scripts: dict[str, str], case: _Case) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The loops that the reported one is held against, warmed up and waiting for a line."""
    numbers = map(str, (1, case.frames, _SIZE, _SEED))
    arguments = [str(case.model), *numbers, *map(str, case.images)]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for side, name in scripts.items():
            command = [sys.executable, str(Path(__file__).with_name(name)), *arguments]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes[side] = process
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _worker_of(agent: AgentProcess, reported: Future[list[int]]) -> int:
    """The process id of the agent's worker, stopped before its first timed frame or soon after."""
    parent = psutil.Process(agent.process.pid)
    while not reported.done():
        for child in parent.children():
            if any("backbench.agent.worker" in word for word in child.cmdline()):
                child.suspend()
                return child.pid
        time.sleep(0.001)
    raise SystemExit("the run ended before its worker was seen")


def _take_turns(waiting: dict[int, Future[Any]], turn_s: float) -> None:
    """Let each process run for a turn while the others are stopped, until every one is done."""
    while any(not future.done() for future in waiting.values()):
        for pid, future in waiting.items():
            if future.done():
                continue
            os.kill(pid, signal.SIGCONT)
            time.sleep(turn_s)
            if not future.done():
                try:
                    os.kill(pid, signal.SIGSTOP)
                except ProcessLookupError:
                    future.result(timeout=30)


def _reported(client: AgentClient, case: _Case) -> list[int]:
    """What the agent reports of every timed frame: as its service time, decoding included where there are images."""
    uploads = [Upload(skeleton_path(case.name), ArtifactKind.SKELETON, case.name)]
    uploads += [Upload(image, ArtifactKind.IMAGE, image.name) for image in case.images]
    sha256, *pushed = push(client, uploads)
    spec = RunSpec(
        new_run_id(), ModelRef(case.name, sha256, "skeleton"), _SIZE, _SIZE, backend=BackendSpec(threads=1),
        scenario=Scenario(frame_count=case.frames, warmup_frame_count=20), memory_pass=False,
        inputs=InputSpec(tuple(ImageRef(i.name, s) for i, s in zip(case.images, pushed, strict=True)), seed=_SEED),
    )  # fmt: skip
    client.submit_run(spec)
    times: list[int] = []
    for event in client.watch_run(spec.run_id):
        happening = event.event
        if isinstance(happening, FrameBlock):
            for tag, begun, done in zip(happening.tags, happening.dequeued_ns, happening.done_ns, strict=True):
                if not tag & FrameTag.WARM_UP and begun is not None and done is not None:
                    times.append(done - begun)
        elif isinstance(happening, LaunchReport) and happening.purpose is LaunchPurpose.TIMED:
            assert happening.facts["threads"] == "1"
        elif isinstance(happening, RunResult) and happening.state is not RunState.DONE:
            raise SystemExit(f"run failed: {happening.failure}")
    return times


def percentile(times: list[int], quantile: float) -> int:
    """By nearest rank."""
    return sorted(times)[math.ceil(len(times) * quantile) - 1]


def ratio(ones: list[float], others: list[float]) -> dict[str, float]:
    """The geometric mean of the rounds' ratios and the ends of Student's 95 % interval."""
    logs = [math.log(one / other) for one, other in zip(ones, others, strict=True)]
    mean = statistics.fmean(logs)
    half = float(student_t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return {"value": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def run() -> list[dict[str, Any]]:
    """Every row."""
    with AgentProcess() as agent, AgentClient(agent.address) as client:
        return compare(client, agent)


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
