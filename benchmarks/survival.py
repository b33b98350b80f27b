"""What surviving costs: uploads that are gone on with, events that are journalled and streamed, watchers that wait."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import upload
from agent_process import AgentProcess
from tests.faults.proxy import Direction, Proxy, Trouble
from tests.faults.scene import heavy_model

from backbench.controller.client import AgentClient
from backbench.domain.artifact import ArtifactKind
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import BackendSpec, InputSpec, ModelRef, RunSpec, Scenario
from backbench.v1 import run_pb2, run_pb2_grpc
from backbench.wire.digest import CHUNK_BYTES

_UPLOAD_BYTES = 64 << 20
_CUT_AT = 0.9
_FEW_FRAMES, _MANY_FRAMES = 2_000, 102_000
_ROUNDS = 3
_WATCHERS = 1000
_CHANNELS = 8
_IDLE_S = 10.0


def run() -> dict[str, object]:
    """All of it, by name."""
    return {"upload": upload.run(), "resume": resume(), "events": events(), "watchers": watchers()}


def resume() -> dict[str, object]:
    """Bytes that go to the agent after a cut at 90 % of a file, with all that gRPC adds, by how it was cut."""
    sent: dict[str, object] = {"bytes": _UPLOAD_BYTES, "chunk_bytes": CHUNK_BYTES}
    allowed = round((1 - _CUT_AT) * _UPLOAD_BYTES) + CHUNK_BYTES
    with tempfile.TemporaryDirectory() as folder, AgentProcess() as agent, Proxy(agent.address) as proxy:
        for trouble in (Trouble.RESET, Trouble.FINISH):
            path = Path(folder) / "artifact"
            path.write_bytes(os.urandom(_UPLOAD_BYTES))
            before = proxy.passed[Direction.TO_AGENT]
            proxy.after(Direction.TO_AGENT, round(_CUT_AT * _UPLOAD_BYTES), trouble)
            with AgentClient(proxy.address) as client:
                client.upload(path, _sha256(path), ArtifactKind.MODEL, path.name)
            again = proxy.passed[Direction.TO_AGENT] - before - round(_CUT_AT * _UPLOAD_BYTES)
            sent[f"bytes_after_{trouble.value}"] = again
            sent[f"{trouble.value}_over_allowed"] = again / allowed
    return sent


def events() -> dict[str, object]:
    """Processor time of the agent's process a frame, in microseconds: journalled only, and streamed to a watcher too.

    The difference of a long run and a short one, so that what a run costs besides its frames is not in it.
    """
    costs: dict[str, list[float]] = {"journalled": [], "journalled_and_streamed": []}
    with tempfile.TemporaryDirectory() as folder, AgentProcess() as agent, AgentClient(agent.address) as client:
        spec = _spec(client, Path(folder))
        _cpu_s(agent, client, spec, _FEW_FRAMES, watched=True)  # makes the model ready
        for _ in range(_ROUNDS):
            for name, watched in (("journalled", False), ("journalled_and_streamed", True)):
                few = _cpu_s(agent, client, spec, _FEW_FRAMES, watched)
                many = _cpu_s(agent, client, spec, _MANY_FRAMES, watched)
                costs[name].append(1e6 * (many - few) / (_MANY_FRAMES - _FEW_FRAMES))
    return {f"{name}_us_per_frame": statistics.median(values) for name, values in costs.items()}


def watchers() -> dict[str, object]:
    """Memory and processor time that streams cost while nothing happens, and how soon all of them hear the end."""
    with tempfile.TemporaryDirectory() as folder, AgentProcess() as agent, AgentClient(agent.address) as client:
        spec = _spec(client, Path(folder))
        lease = client.acquire_lease("somebody else", ttl_s=600)
        client.submit_run(spec)
        result = asyncio.run(_watched(agent, client, spec.run_id))
        client.release_lease(lease)
        return result


async def _watched(agent: AgentProcess, client: AgentClient, run_id: str) -> dict[str, object]:
    alone_bytes, alone_s = agent.resident_bytes, await _idle_s(agent)
    async with AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(agent.address, options)) for _ in range(_CHANNELS)
        ]
        streams = [_stream(channels[number % _CHANNELS], run_id) for number in range(_WATCHERS)]
        for stream in streams:
            await anext(stream)
        with_bytes, with_s = agent.resident_bytes, await _idle_s(agent)
        cpu_s, began_s = agent.cpu_time_s, time.perf_counter()
        rest = [asyncio.ensure_future(_rest(stream)) for stream in streams]
        await asyncio.to_thread(client.cancel_run, run_id)
        received = await asyncio.gather(*rest)
        assert min(received) > 0
        ended_s = time.perf_counter() - began_s
    return {
        "watchers": _WATCHERS,
        "resident_mb_without": alone_bytes / 1e6,
        "kb_per_watcher": (with_bytes - alone_bytes) / 1e3 / _WATCHERS,
        "processor_share_without": alone_s / _IDLE_S,
        "processor_share_with": with_s / _IDLE_S,
        "all_told_of_the_end_after_s": ended_s,
        "processor_s_for_that": agent.cpu_time_s - cpu_s,
    }


async def _idle_s(agent: AgentProcess) -> float:
    began_s = agent.cpu_time_s
    await asyncio.sleep(_IDLE_S)
    return agent.cpu_time_s - began_s


async def _stream(channel: grpc.aio.Channel, run_id: str) -> AsyncIterator[run_pb2.WatchRunResponse]:
    stub: run_pb2_grpc.RunServiceAsyncStub = run_pb2_grpc.RunServiceStub(channel)  # type: ignore[assignment]
    async for response in stub.WatchRun(run_pb2.WatchRunRequest(run_id=run_id)):
        yield response


async def _rest(stream: AsyncIterator[run_pb2.WatchRunResponse]) -> int:
    return len([response async for response in stream])


def _spec(client: AgentClient, folder: Path) -> RunSpec:
    model = folder / "tiny.onnx"
    heavy_model(model, seed=0, weight_bytes=1200)
    client.upload(model, _sha256(model), ArtifactKind.MODEL, model.name)
    return RunSpec(
        new_run_id(), ModelRef("tiny", _sha256(model), "file"), 32, 32, backend=BackendSpec("onnxruntime", threads=1),
        scenario=Scenario(frame_count=_FEW_FRAMES), inputs=InputSpec(synthetic_count=1), memory_pass=False,
        telemetry_rate_hz=0.0,
    )  # fmt: skip


def _cpu_s(agent: AgentProcess, client: AgentClient, spec: RunSpec, frames: int, watched: bool) -> float:
    spec = replace(spec, run_id=new_run_id(), scenario=Scenario(frame_count=frames))
    began_s = agent.cpu_time_s
    client.submit_run(spec)
    if watched:
        for _ in client.watch_run(spec.run_id):
            pass
    while not client.get_run(spec.run_id).state.ended:
        time.sleep(0.1)
    cost_s = agent.cpu_time_s - began_s
    client.delete_run(spec.run_id)
    return cost_s


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(results: dict[str, object]) -> Sequence[tuple[str, float, str]]:
    """Each result with its name and what it should be."""
    flat = {f"{part}.{name}": value for part, of_part in results.items() for name, value in _items(of_part)}
    return [(words, flat[key], target) for key, words, target in _ROWS]


def _items(part: object) -> Sequence[tuple[str, float]]:
    assert isinstance(part, dict)
    return list(part.items())


_ROWS = (
    ("upload.upload_over_copy", "upload throughput / plain socket copy", "information"),
    ("upload.bytes_sent_for_a_held_artifact", "bytes sent for an artifact that is held", "0"),
    ("resume.reset_over_allowed", "bytes sent after a reset at 90 % / (10 % + a chunk)", "1 or less"),
    ("resume.finish_over_allowed", "bytes sent after an orderly end at 90 % / (10 % + a chunk)", "1 or less"),
    ("events.journalled_us_per_frame", "agent's processor time a frame, journalled, µs", "< 10"),
    ("events.journalled_and_streamed_us_per_frame", "    journalled and streamed, µs", "< 10"),
    ("watchers.resident_mb_without", "agent with a queued run, resident MB", "information"),
    ("watchers.kb_per_watcher", "memory of one of 1,000 idle watchers, kB", "information"),
    ("watchers.processor_share_without", "processors in use by the agent without watchers", "information"),
    ("watchers.processor_share_with", "    with 1,000 idle watchers", "as without"),
    ("watchers.all_told_of_the_end_after_s", "1,000 watchers told of the run's end after, s", "information"),
)


def markdown(results: dict[str, object], machine: str) -> str:
    """The table of `results/survival.md`."""
    lines = [f"| {words.strip()} | {value:.3f} | {target} |" for words, value, target in rows(results)]
    return "\n".join(
        (
            "# What surviving costs",
            "",
            f"Made by `benchmarks/survival.py` on {machine}. [The list](../README.md) says what is compared.",
            "",
            "| | measured | target |",
            "|---|---:|---|",
            *lines,
            "",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="write survival.json and survival.md there")
    options = parser.parse_args()
    results = run()
    machine = f"{os.uname().machine} with {len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}"
    sys.stdout.write(markdown(results, machine))
    if options.into is not None:
        (options.into / "survival.json").write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")
        (options.into / "survival.md").write_text(markdown(results, machine))


if __name__ == "__main__":
    main()
