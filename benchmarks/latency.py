"""The reported p50 over that of a bare ONNX Runtime loop: same model, threads, inputs and machine; A B B A."""

from __future__ import annotations

import json
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
_ROUNDS = 2  # of A B B A


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
    reported, bare, agent_cpu_us = [], [], []
    threads = 1
    for _ in range(_ROUNDS):
        for side in "ABBA":
            if side == "A":
                before = agent.cpu_time_s
                p50, threads = _reported(client, name, frames, images)
                reported.append(p50)
                agent_cpu_us.append((agent.cpu_time_s - before) / frames * 1e6)
            else:
                bare.append(_bare(model, threads, frames, images))
    return {
        "model": name,
        "inputs": f"{len(images)} photographs, decoded in every frame" if images else "8 tensors",
        "threads": threads,
        "reported_p50_ms": statistics.median(reported) / 1e6,
        "bare_p50_ms": statistics.median(bare) / 1e6,
        "ratio": statistics.median(reported) / statistics.median(bare),
        "processes": len(reported),
        "frames_each": frames,
        "agent_cpu_us_per_frame": statistics.median(agent_cpu_us),
    }


def _reported(client: AgentClient, name: str, frames: int, images: list[Path]) -> tuple[float, int]:
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
            rows = zip(happening.tags, happening.dequeued_ns, happening.done_ns, happening.compute_ns, strict=True)
            for tag, begun, done, compute in rows:
                if not tag & FrameTag.WARM_UP and begun is not None and done is not None and compute is not None:
                    times.append(done - begun if images else compute)
        elif isinstance(happening, LaunchReport) and happening.purpose is LaunchPurpose.TIMED:
            threads = int(happening.facts["threads"])
        elif isinstance(happening, RunResult) and happening.state is not RunState.DONE:
            raise SystemExit(f"run failed: {happening.failure}")
    return statistics.median(times), threads


def _bare(model: Path, threads: int, frames: int, images: list[Path]) -> float:
    script = Path(__file__).with_name("bare_loop.py")
    numbers = map(str, (threads, frames, _SIZE, _SEED))
    command = [sys.executable, str(script), str(model), *numbers, *map(str, images)]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    times: list[int] = json.loads(output)
    return statistics.median(times)


def run() -> list[dict[str, object]]:
    """Every row."""
    with AgentProcess() as agent, AgentClient(agent.address) as client:
        return compare(client, agent)


if __name__ == "__main__":
    json.dump(run(), sys.stdout, indent=2)
