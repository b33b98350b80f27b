"""The main job through the real commands: real agent, real ONNX Runtime, real photographs."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

from backbench.domain.budget import Verdict


def test_a_backbone_is_profiled_on_photographs_and_every_frame_can_be_exported(
    agent: Any, backbench: Any, photos: Path
) -> None:
    backbench("device", "add", "lab1", agent.address)
    done = backbench(
        "profile", "mobilenetv3_large_100", "--device", "lab1", "--size", "96", "--frames", "500",
        "--inputs", str(photos), "--budget", "max<=10s", "--budget", "memory<=4GB", "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert document["schema"] == "backbench.run/1"
    assert document["state"] == "done"
    assert document["model"]["name"] == "mobilenetv3_large_100"
    assert document["model"]["size"] == [96, 96]
    assert document["frames"] == {"offered": 500, "completed": 500, "dropped": 0, "errored": 0}
    assert document["verdict"] == Verdict.PASS.value
    latency, cut = document["latency_ms"], document["steady"][0]["cut_frames"]
    assert latency["service"]["n"] == 500 - cut
    assert latency["service"]["mean"] > latency["compute"]["mean"] > 0
    assert latency["preprocess"]["mean"] > 0
    assert document["memory_mb"]["peak"] > 20
    assert document["energy_j_per_frame"] is None
    assert Path(document["files"]["frames"]).is_file()

    backbench("run", "export", document["run_id"], "--to", "frames.csv")
    with (backbench.cwd / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(520))
    timed = [row for row in rows if row["warm_up"].lower() == "false"]
    service = [int(row["done_ns"]) - int(row["dequeued_ns"]) for row in timed]
    assert len(timed) == 500
    assert abs(statistics.fmean(service[cut:]) / 1e6 - latency["service"]["mean"]) < 1e-6
    parts = [int(row["preprocess_ns"]) + int(row["compute_ns"]) for row in timed]
    assert all(whole >= part for whole, part in zip(service, parts, strict=True))


def test_a_budget_that_is_broken_ends_with_status_1(agent: Any, backbench: Any) -> None:
    backbench("device", "add", "lab1", agent.address)
    done = backbench(
        "profile", "mobilenetv3_large_100", "--device", "lab1", "--size", "64", "--frames", "20", "--no-memory-pass",
        "--budget", "max<=1us", status=1,
    )  # fmt: skip
    assert "reject" in done.stdout


def test_a_second_profile_sends_no_model_again_and_two_runs_compare(agent: Any, backbench: Any) -> None:
    backbench("device", "add", "lab1", agent.address)
    ids, held = [], []
    for _ in range(2):
        arguments = ("--device", "lab1", "--size", "64", "--frames", "20", "--json")
        ids.append(json.loads(backbench("profile", "mobilenetv3_large_100", *arguments).stdout)["run_id"])
        artifacts = (path for path in (agent.data_dir / "artifacts").iterdir() if not path.suffix)
        held.append({path.name: path.stat().st_mtime_ns for path in artifacts})
    listed = backbench("run", "list").stdout
    assert all(run_id[-8:] in listed for run_id in ids)
    assert "mobilenetv3_large_100" in backbench("compare", *ids).stdout
    assert len(held[0]) == 2  # the skeleton and its reference outputs
    assert held[1] == held[0]
