"""Signals and kills, with the real command in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backbench.controller.client import AgentClient
from backbench.domain.frame import FrameBlock
from backbench.domain.run import RunState

MODEL = "mobilenetv3_large_100"


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(interruptible: None) -> Iterator[Start]:  # noqa: ARG001
    """Starts the command; what is left of it at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "backbench.controller", *arguments]
        started.append(subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _measuring(address: str, known: set[str]) -> bool:
    """Whether a new run has its first frames."""
    with AgentClient(address) as client:
        runs = [run for run in client.list_runs() if run.spec.run_id not in known]
        return any(run.state is RunState.RUNNING and _has_frames(client, run.spec.run_id) for run in runs)


def _has_frames(client: AgentClient, run_id: str) -> bool:
    events = client.watch_run(run_id)
    try:
        return any(isinstance(event.event, FrameBlock) for event in events)
    finally:
        events.close()


def _known(address: str) -> set[str]:
    with AgentClient(address) as client:
        return {run.spec.run_id for run in client.list_runs()}


def _profile(frames: int) -> tuple[str, ...]:
    return ("profile", MODEL, "--device", "here", "--size", "32", "--frames", str(frames), "--no-memory-pass", "--json")


def test_an_interrupt_ends_the_run_on_the_device_and_keeps_what_was_measured(
    here: Any, address: str, start: Start
) -> None:
    known = _known(address)
    process = start(*_profile(1_000_000))
    _wait(lambda: _measuring(address, known))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    document = json.loads(out)
    assert document["state"] == "cancelled"
    assert document["frames"]["completed"] > 0
    assert here("run", "show", document["run_id"], "--json", status=130).json == document


def test_a_controller_that_was_killed_continues_by_following(here: Any, address: str, start: Start) -> None:
    known = _known(address)
    process = start(*_profile(1500))
    _wait(lambda: _measuring(address, known))
    process.kill()
    process.wait()
    (run,) = here("run", "list", "--json").json["runs"]
    assert run["verdict"] is None
    assert "backbench run follow" in here("run", "show", run["run_id"], status=3).err
    document = here("run", "follow", run["run_id"][-8:], "--json").json
    assert document["state"] == "done"
    assert document["frames"]["completed"] == 1500


def test_a_run_is_cancelled_from_another_terminal(here: Any, address: str, start: Start) -> None:
    known = _known(address)
    process = start(*_profile(1_000_000))
    _wait(lambda: _measuring(address, known))
    (run,) = here("run", "list", "--json").json["runs"]
    assert "cancelled" in here("run", "cancel", run["run_id"]).out
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert json.loads(out)["state"] == "cancelled"


def test_the_demo_stops_its_agent_when_it_is_told_to_stop(home: Path, tmp_path: Path, start: Start) -> None:
    data = tmp_path / "data"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start("--store", str(home), "demo", "--frames", "1000000", "--keep", str(data))
        _wait(lambda: any(data.glob("runs/*/events-*.seg")))
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == status, err
        assert "Traceback" not in err
        assert not [one for one in psutil.process_iter() if _mentions(one, data)]
        for segment in data.glob("runs/*/events-*.seg"):
            segment.unlink()


def test_the_demo_works_and_says_what_to_do_next(backbench: Any, home: Path) -> None:
    done = backbench("demo", "--frames", "20")
    assert "The demo worked" in done.out
    assert "mobilenetv3_large_100" in done.out
    assert "resnet50" in done.out
    assert "backbench compare" in done.out
    assert str(home) in done.out
    assert [run["state"] for run in backbench("run", "list", "--json").json["runs"]] == ["done", "done"]
    assert backbench("device", "list", "--json").json["devices"] == []


def _mentions(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(str(folder) in word for word in process.cmdline()) and process.pid != os.getpid()
    except psutil.Error:
        return False


def test_an_interrupt_while_following_leaves_the_run_alone(here: Any, address: str, start: Start) -> None:
    known = _known(address)
    # At a rate the run lasts as long on every machine, longer than it takes to start the command that follows it.
    camera = ("--scenario", "paced", "--fps", "200", "--queue-policy", "unbounded")
    process = start(*_profile(3000), *camera)
    _wait(lambda: _measuring(address, known))
    process.kill()
    process.wait()
    (run,) = here("run", "list", "--json").json["runs"]
    following = start("run", "follow", run["run_id"])
    assert following.stderr is not None
    _wait(lambda: "measure" in following.stderr.readline())  # type: ignore[union-attr]
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=30)
    assert following.returncode == 130
    assert "goes on on the device" in err
    assert here("run", "follow", run["run_id"], "--json").json["frames"]["completed"] == 3000
