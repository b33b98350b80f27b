"""Runs that nobody watches, and what is left of them when everything is killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from backbench.controller.client import AgentClient
from backbench.domain.errors import DeviceBusy

QUICK = (
    "mobilenetv3_large_100", "--device", "lab1", "--size", "32", "--warmup", "2", "--no-memory-pass",
)  # fmt: skip


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 60 s"
        time.sleep(0.02)


def journalled_bytes(data_dir: Path) -> int:
    return sum(path.stat().st_size for path in data_dir.glob("runs/*/events-*.seg"))


def test_runs_that_were_handed_over_outlive_the_agent_and_are_fetched_in_the_morning(
    agents: Callable[..., Any], backbench: Any, tmp_path: Path
) -> None:
    agent = agents(tmp_path / "data")
    backbench("device", "add", "lab1", agent.address)
    long = json.loads(backbench("profile", *QUICK, "--frames", "1000000", "--detach", "--json").stdout)
    short = json.loads(backbench("profile", *QUICK, "--frames", "20", "--detach", "--json").stdout)
    assert short["runs"][0]["queue_position"] == 1
    wait_for(lambda: journalled_bytes(tmp_path / "data") > 20_000)
    agent.process.kill()
    agent.process.wait()
    agents(tmp_path / "data", agent.address)
    followed = json.loads(backbench("run", "follow", short["runs"][0]["run_id"], "--json").stdout)
    assert (followed["state"], followed["frames"]["completed"]) == ("done", 20)
    collected = json.loads(backbench("run", "collect", "--device", "lab1", "--json").stdout)
    (row,) = collected["runs"]
    assert (row["run_id"], row["state"]) == (long["runs"][0]["run_id"], "interrupted")
    document = json.loads(backbench("run", "show", row["run_id"], "--json", status=3).stdout)
    indices = pyarrow.parquet.read_table(document["files"]["frames"])["index"].to_pylist()
    assert indices == list(range(len(indices)))
    assert len(indices) > 0


@pytest.mark.parametrize("ending", ["terminate", "kill"])
def test_a_killed_controller_keeps_nobody_from_the_device(agent: Any, backbench: Any, ending: str) -> None:
    backbench("device", "add", "lab1", agent.address)
    process = backbench.start("profile", *QUICK[:1], *QUICK, "--frames", "1000000")
    wait_for(lambda: journalled_bytes(agent.data_dir) > 20_000)
    with AgentClient(agent.address) as other:
        with pytest.raises(DeviceBusy):
            other.acquire_lease("alice@laptop")
        getattr(process, ending)()
        process.communicate(timeout=60)
        (run,) = other.list_runs()
        assert not run.state.ended
        other.cancel_run(run.spec.run_id)
        if ending == "terminate":  # after a kill the lease runs out by itself, a minute later
            other.release_lease(other.acquire_lease("alice@laptop"))
    fetched = json.loads(backbench("run", "collect", "--device", "lab1", "--json").stdout)
    assert [each["run_id"] for each in fetched["runs"]] == [run.spec.run_id]
    assert "not finished here" not in backbench("run", "list").stdout
    assert not list((backbench.home / "locks").glob("*"))
