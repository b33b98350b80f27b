"""What was measured survives the worker, the connection and the controller."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet

MANY = "4000"


def test_a_killed_worker_fails_the_run_keeps_its_frames_and_the_next_run_works(agent: Any, backbench: Any) -> None:
    backbench("device", "add", "lab1", agent.address)
    process = backbench.start(
        "profile", "mobilenetv3_large_100", "--device", "lab1", "--size", "64", "--frames", MANY,
        "--no-memory-pass", "--json",
    )  # fmt: skip
    wait_for(lambda: journalled_bytes(agent.data_dir) > 20_000)
    agent.worker().send_signal(signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    assert "Traceback" not in stderr
    document = json.loads(stdout)
    assert document["state"] == "failed"
    assert document["failure"]["reason"] == "worker_crashed"
    assert "SIGKILL" in document["failure"]["message"]
    indices = stored_indices(document)
    assert indices == list(range(len(indices)))
    assert 0 < len(indices) < int(MANY)
    backbench("profile", "mobilenetv3_large_100", "--device", "lab1", "--size", "64", "--frames", "20")


def test_a_controller_killed_in_mid_run_gets_every_frame_exactly_once_by_following(agent: Any, backbench: Any) -> None:
    backbench("device", "add", "lab1", agent.address)
    frames = 1500
    process = backbench.start(
        "profile", "mobilenetv3_large_100", "--device", "lab1", "--size", "64", "--frames", str(frames),
        "--no-memory-pass",
    )  # fmt: skip
    wait_for(lambda: journalled_bytes(agent.data_dir) > 20_000)
    process.kill()
    process.communicate()
    (run_id,) = re.findall(r"[0-9a-f]{8}", backbench("run", "list").stdout)[:1]
    done = backbench("run", "follow", run_id, "--json")
    document = json.loads(done.stdout)
    assert document["state"] == "done"
    assert stored_indices(document) == list(range(frames + 20))
    assert document["frames"]["completed"] == frames


def test_an_agent_killed_in_mid_run_leaves_an_interrupted_run_with_its_frames(
    agents: Callable[..., Any], backbench: Any, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    agent = agents(data_dir)
    backbench("device", "add", "lab1", agent.address)
    process = backbench.start(
        "profile", "mobilenetv3_large_100", "--device", "lab1", "--size", "64", "--frames", MANY,
        "--no-memory-pass", "--json",
    )  # fmt: skip
    wait_for(lambda: journalled_bytes(data_dir) > 20_000)
    worker = agent.worker()
    agent.process.kill()
    agent.process.wait()
    wait_for(lambda: not worker.is_running() or worker.status() == "zombie")
    agents(data_dir, agent.address)
    stdout, stderr = process.communicate(timeout=60)
    document = json.loads(stdout)
    assert document["state"] == "interrupted", stderr
    indices = stored_indices(document)
    assert indices == list(range(len(indices)))
    assert len(indices) > 0


def journalled_bytes(data_dir: Path) -> int:
    return sum(path.stat().st_size for path in data_dir.glob("runs/*/events-*.seg"))


def stored_indices(document: dict[str, Any]) -> list[int]:
    indices: list[int] = pyarrow.parquet.read_table(document["files"]["frames"])["index"].to_pylist()
    return indices


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 60 s"
        time.sleep(0.01)
