"""Real worker processes: every frame once, and every way to die is told apart."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from backbench.agent.cgroups import Cgroups
from backbench.agent.supervisor import Stopped, Surroundings, Watchdog, Worker, prepare_model, run_together
from backbench.agent.worker.job import Job
from backbench.domain.frame import FrameBlock
from backbench.domain.run import SECOND_NS, FailureReason, RunFailure
from backbench.models.catalog import skeleton_path
from backbench.models.reference import write_reference

MakeJob = Callable[..., Job]
ENDLESS = 1_500_000


class Recorded:
    """A worker under supervision and everything that it gave."""

    def __init__(self, job: Job, surroundings: Surroundings | None = None) -> None:
        self.blocks: list[FrameBlock] = []
        self.stages: list[str] = []
        self.worker = Worker(
            job, 0, self.blocks.append, lambda stage, _: self.stages.append(stage), surroundings=surroundings
        )
        self.stop = asyncio.Event()

    async def run(self, stall_s: float = 60, limit_s: float = 60) -> RunFailure | None:
        watchdog = Watchdog(int(stall_s * SECOND_NS), time.perf_counter_ns() + int(limit_s * SECOND_NS), self.stop)
        return await self.worker.run(watchdog)

    @property
    def indices(self) -> list[int]:
        return [index for block in self.blocks for index in block.index]

    async def process_in_mid_run(self) -> psutil.Process:
        deadline = time.monotonic() + 60
        while not self.indices:
            assert time.monotonic() < deadline, "no frame within 60 s"
            await asyncio.sleep(0.02)
        return worker_processes()[0]


def worker_processes() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "backbench.agent.worker" in child.cmdline()]


async def test_every_frame_arrives_once_and_in_order(make_job: MakeJob) -> None:
    recorded = Recorded(make_job(frame_count=1000))
    assert await recorded.run() is None
    assert recorded.indices == list(range(1005))
    tags = [tag for block in recorded.blocks for tag in block.tags]
    assert tags == [1] * 5 + [0] * 1000
    assert all(block.preprocess_ns == () for block in recorded.blocks)
    assert recorded.worker.report is not None
    facts = recorded.worker.report["facts"]
    assert facts["providers"] == "CPUExecutionProvider"
    assert facts["threads"] == "1"
    phases = [name for name, _ in recorded.worker.report["phases"]]
    assert phases == ["process", "interpreter", "import", "load", "inputs", "first_inference", "warmup"]
    assert worker_processes() == []


async def test_photographs_are_preprocessed_in_every_frame(make_job: MakeJob, photos: list[Path]) -> None:
    names = tuple(path.name for path in photos)
    recorded = Recorded(make_job(image_paths=tuple(map(str, photos)), image_names=names, frame_count=20))
    assert await recorded.run() is None
    spans = [span for block in recorded.blocks for span in block.preprocess_ns]
    assert len(spans) == 25
    assert all(span is not None and span > 0 for span in spans)
    assert {each for block in recorded.blocks for each in block.input} == set(range(len(photos)))


async def test_the_memory_pass_gives_every_phase_and_no_frames(make_job: MakeJob) -> None:
    recorded = Recorded(make_job(purpose="memory"))
    assert await recorded.run() is None
    assert recorded.blocks == []
    assert recorded.worker.report is not None
    memory = recorded.worker.report["memory"]
    assert [phase["name"] for phase in memory][-3:] == ["first_inference", "steady", "after_free"]
    assert all(phase["peak_bytes"] >= phase["resident_bytes"] * 0.95 > 0 for phase in memory)


async def test_a_killed_worker_is_a_typed_failure_with_its_frames_kept(make_job: MakeJob) -> None:
    recorded = Recorded(make_job(frame_count=ENDLESS))
    running = asyncio.ensure_future(recorded.run())
    (await recorded.process_in_mid_run()).kill()
    failure = await running
    assert failure is not None
    assert failure.reason is FailureReason.WORKER_CRASHED
    assert failure.signal == signal.SIGKILL
    assert recorded.indices == list(range(len(recorded.indices)))
    assert 0 < len(recorded.indices) < ENDLESS
    assert await Recorded(make_job()).run() is None


async def test_a_worker_that_hangs_is_ended_after_the_stall_limit(make_job: MakeJob) -> None:
    recorded = Recorded(make_job(frame_count=ENDLESS))
    running = asyncio.ensure_future(recorded.run(stall_s=1.0))
    (await recorded.process_in_mid_run()).suspend()
    failure = await running
    assert failure is not None
    assert failure.reason is FailureReason.WORKER_TIMED_OUT
    assert "--stall-timeout" not in failure.message  # the command line has no such option
    assert worker_processes() == []
    assert len(recorded.indices) > 0


async def test_a_run_over_its_limit_is_ended(make_job: MakeJob) -> None:
    failure = await Recorded(make_job(frame_count=ENDLESS)).run(limit_s=1.5)
    assert failure is not None
    assert failure.reason is FailureReason.RUN_TIMED_OUT
    assert worker_processes() == []


async def test_a_worker_that_is_asked_to_stop_leaves_no_process(make_job: MakeJob) -> None:
    recorded = Recorded(make_job(frame_count=ENDLESS))
    running = asyncio.ensure_future(recorded.run())
    await recorded.process_in_mid_run()
    recorded.stop.set()
    with pytest.raises(Stopped):
        await running
    assert worker_processes() == []
    assert recorded.indices == list(range(len(recorded.indices)))


async def test_a_file_that_is_no_model_is_refused_in_one_line(make_job: MakeJob, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model")
    failure = await Recorded(make_job(model_path=str(garbage))).run()
    assert failure is not None
    assert failure.reason is FailureReason.INVALID_MODEL
    assert "\n" not in failure.message


async def test_a_size_that_the_model_refuses_is_named(make_job: MakeJob) -> None:
    failure = await Recorded(make_job(height=20)).run()
    assert failure is not None
    assert failure.reason is FailureReason.SHAPE_MISMATCH
    assert "20x16" in failure.message


async def test_an_image_that_cannot_be_decoded_is_named(make_job: MakeJob, tmp_path: Path) -> None:
    broken = tmp_path / "f00d"
    broken.write_bytes(b"\xff\xd8\xff but no picture")
    failure = await Recorded(make_job(image_paths=(str(broken),), image_names=("broken.jpg",))).run()
    assert failure is not None
    assert failure.reason is FailureReason.INVALID_INPUT
    assert failure.message.startswith("broken.jpg: ")


def reference(path: Path, features: float) -> str:
    """A reference that claims the same number for every frame and channel of the tiny model."""
    frames, outputs = np.zeros((2, 16, 16, 3), np.uint8), {"output": np.full((2, 4, 1, 1), features, np.float32)}
    write_reference(path, frames, outputs, tolerance=1e-3, made_by="nobody", precision="fp32")
    return str(path)


async def test_outputs_are_compared_after_the_frames_and_a_wrong_one_is_reported(
    make_job: MakeJob, tmp_path: Path
) -> None:
    recorded = Recorded(make_job(reference_path=reference(tmp_path / "wrong.npz", 1e6)))
    assert await recorded.run() is None
    assert recorded.indices == list(range(305))
    assert "outputs" in recorded.stages
    assert recorded.worker.report is not None
    (check,) = recorded.worker.report["output_checks"]
    assert (check["name"], check["finite"], check["passed"], check["frame_count"]) == ("output", True, False, 2)
    assert check["max_relative_error"] > 0.9


async def test_a_reference_that_cannot_be_used_ends_the_worker_before_the_first_frame(
    make_job: MakeJob, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.npz"
    reference(path, 1.0)
    path.write_bytes(path.read_bytes()[:500])
    recorded = Recorded(make_job(reference_path=str(path)))
    failure = await recorded.run()
    assert failure is not None
    assert failure.reason is FailureReason.INVALID_INPUT
    assert failure.message.startswith("the reference outputs cannot be used")
    assert recorded.indices == []


def test_a_worker_whose_agent_died_ends(make_job: MakeJob) -> None:
    script = (
        "import subprocess, sys, os, time\n"
        "from backbench.agent.worker import table\n"
        "fd = table.create(2000000)\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'backbench.agent.worker'], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE, pass_fds=(fd,), text=True)\n"
        "job = sys.argv[1].replace('\"table_descriptor\": null', f'\"table_descriptor\": {fd}')\n"
        "job = job.replace('\"parent_pid\": 0', f'\"parent_pid\": {os.getpid()}')\n"
        "worker.stdin.write(job + '\\n'); worker.stdin.flush()\n"
        "[worker.stdout.readline() for _ in range(5)]\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    job = make_job(frame_count=ENDLESS).to_json()
    agent = subprocess.Popen([sys.executable, "-c", script, job], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    worker = psutil.Process(pid)
    agent.kill()
    agent.communicate()
    psutil.wait_procs([worker], timeout=30)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


async def test_a_skeleton_is_made_ready_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    watchdog = Watchdog(SECOND_NS, time.perf_counter_ns() + 60 * SECOND_NS, asyncio.Event())
    source = skeleton_path("mobilenetv3_large_100")
    made = tmp_path / "made.onnx"
    assert await prepare_model([str(source), str(made), "skeleton", "1", "64", "64"], watchdog) is None
    assert made.stat().st_size > 10_000_000
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(source.read_bytes()[:20_000])
    failure = await prepare_model([str(broken), str(tmp_path / "x.onnx"), "skeleton", "1", "64", "64"], watchdog)
    assert failure is not None
    assert failure.reason is FailureReason.INVALID_MODEL
    assert not (tmp_path / "x.onnx").exists()
    assert not any(name.endswith(".part") for name in os.listdir(tmp_path))  # noqa: PTH208


def together(*jobs: Job) -> tuple[list[Worker], dict[int, list[FrameBlock]]]:
    blocks: dict[int, list[FrameBlock]] = {place: [] for place in range(len(jobs))}
    workers = [Worker(job, 0, blocks[place].append, lambda *_: None, stream=place) for place, job in enumerate(jobs)]
    return workers, blocks


def watchdog(stop: asyncio.Event) -> Watchdog:
    return Watchdog(60 * SECOND_NS, time.perf_counter_ns() + 60 * SECOND_NS, stop)


async def test_engines_at_once_begin_their_timed_windows_when_the_last_one_is_ready(make_job: MakeJob) -> None:
    workers, blocks = together(make_job(gated=True, frame_count=200), make_job(gated=True, frame_count=200))
    assert await run_together(workers, watchdog(asyncio.Event())) is None
    starts, ends = [], []
    for place, worker in enumerate(workers):
        assert {block.stream for block in blocks[place]} == {place}
        assert sum(len(block.index) for block in blocks[place]) == 205
        assert worker.report is not None
        starts.append(worker.report["window_start_ns"])
        warm_up = [done for block in blocks[place] for done, tag in zip(block.done_ns, block.tags, strict=True) if tag]
        ends.append(max(done for done in warm_up if done is not None))
    assert min(starts) > max(ends)


async def test_when_one_of_several_engines_fails_the_others_are_ended(make_job: MakeJob, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    workers, _ = together(make_job(gated=True, frame_count=200), make_job(gated=True, model_path=str(broken)))
    failure = await run_together(workers, watchdog(asyncio.Event()))
    assert failure is not None
    assert failure.reason is FailureReason.INVALID_MODEL
    assert worker_processes() == []


async def test_several_engines_that_are_asked_to_stop_leave_no_process(make_job: MakeJob) -> None:
    workers, _ = together(*(make_job(gated=True, frame_count=ENDLESS) for _ in range(2)))
    stop = asyncio.Event()
    running = asyncio.ensure_future(run_together(workers, watchdog(stop)))
    await asyncio.gather(*(worker.ready.wait() for worker in workers))
    stop.set()
    with pytest.raises(Stopped):
        await running
    assert worker_processes() == []


async def test_a_limit_that_is_too_small_is_out_of_memory_and_names_the_phase(make_job: MakeJob) -> None:
    recorded = Recorded(make_job(memory_limit_bytes=20_000_000))
    failure = await recorded.run()
    assert failure is not None
    assert failure.reason is FailureReason.OUT_OF_MEMORY
    assert failure.message.startswith("out of memory in phase ")


async def test_waiting_for_others_or_for_the_next_frame_is_no_stall(make_job: MakeJob, tmp_path: Path) -> None:
    trace = tmp_path / "camera.txt"
    trace.write_text("0\n3500000000\n")
    recorded = Recorded(make_job(gated=True, arrivals="trace", trace_path=str(trace), frame_count=2))
    running = asyncio.ensure_future(recorded.run(stall_s=2))
    await asyncio.wait_for(recorded.worker.ready.wait(), 60)
    await asyncio.sleep(2.6)
    await recorded.worker.release()
    assert await running is None
    assert recorded.indices == list(range(7))


async def test_a_worker_that_its_control_group_killed_is_out_of_memory_with_the_remedy(
    make_job: MakeJob, tmp_path: Path
) -> None:
    recorded = Recorded(make_job(frame_count=ENDLESS, memory_limit_bytes=1 << 30), Surroundings(Cgroups(tmp_path)))
    running = asyncio.ensure_future(recorded.run())
    process = await recorded.process_in_mid_run()
    (name,) = (name for name in os.listdir(tmp_path) if name.startswith("worker-"))  # noqa: PTH208
    group = tmp_path / name
    assert (group / "memory.max").read_text() == str(1 << 30)
    assert (group / "cgroup.procs").read_text() == str(process.pid)
    (group / "memory.events").write_text("oom_kill 1\n")
    process.kill()
    failure = await running
    assert failure is not None
    assert failure.reason is FailureReason.OUT_OF_MEMORY
    assert failure.message.startswith("out of memory in phase measure: ")
    assert failure.message.endswith("or raise --memory-limit")
