"""The agent's command line: what is wrong is said in one line before anything is made."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backbench.agent.sensors.bundle import parse
from backbench.agent.sensors.simulations import known_simulations

AGENT = (sys.executable, "-m", "backbench.agent")


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AGENT, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("simulate", "message"),
    [
        ("amiga", "there are container-bare"),
        ("rpi", "is the beginning of several; there are rpi3bplus-softlimit"),
        ("", "the name of a simulation is empty"),
        ("nowhere.bundle", "cannot be read: No such file or directory"),
        ("bad.bundle", "bad.bundle, line 2: unknown errno"),
        ("bad.toml", "entry 1 of [[at]]: ms has to be"),
    ],
)
def test_a_board_that_cannot_be_replayed_is_refused_before_anything_is_made(
    simulate: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.bundle").write_text("#! mine\n## a !EWHAT\n")
    (tmp_path / "bad.toml").write_text('about = "mine"\nbase = "rpi5-bookworm"\n[[at]]\n')
    name = str(tmp_path / simulate) if simulate.startswith("bad") else simulate
    done = ran("serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), "--simulate", name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("backbench-agent: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_an_unknown_board_is_answered_with_all_that_there_are(tmp_path: Path) -> None:
    done = ran("serve", "--data-dir", str(tmp_path / "data"), "--simulate", "amiga")
    assert all(name in done.stderr for name in known_simulations())


def test_an_agent_says_that_it_simulates(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*AGENT, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), "--simulate", "rpi5"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("listening on 127.0.0.1:")
        assert process.stdout.readline() == "simulating rpi5-bookworm: telemetry is replayed, frames are real\n"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()


def test_this_machine_is_recorded_to_standard_output_alone() -> None:
    done = ran("record-bundle", "--label", "the machine of a test")
    assert done.returncode == 0
    bundle = parse(done.stdout, "board")
    assert bundle.provenance[0].endswith("; the machine of a test")
    assert "proc/meminfo" in bundle.files
    assert f"{len(bundle.files)} files and commands recorded" in done.stderr


def test_how_to_contribute_a_recording_is_said_in_its_help() -> None:
    assert "To contribute a board" in ran("record-bundle", "--help").stdout
