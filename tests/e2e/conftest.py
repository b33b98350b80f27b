"""The two real commands as processes, a real agent behind them, and folders that belong to one test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import psutil
import pytest

DEADLINE_S = 60.0


@dataclass
class AgentProcess:
    """`backbench-agent serve` on a free port."""

    data_dir: Path
    process: subprocess.Popen[str]
    address: str
    code: str = ""

    def worker(self) -> psutil.Process:
        """The worker that times frames, once there is one."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                try:
                    if "backbench.agent.worker" in child.cmdline():
                        return child
                except psutil.NoSuchProcess:
                    continue
        raise AssertionError("no worker was started")

    def stop(self) -> None:
        """End it in good order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(DEADLINE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


@dataclass
class Backbench:
    """The command line, with a store of its own."""

    home: Path
    cwd: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Without colours, without a terminal, with this test's store."""
        return {**os.environ, "BACKBENCH_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "100"}

    def __call__(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its exit status must be `status`, unless that is None."""
        done = subprocess.run(
            [sys.executable, "-m", "backbench.controller", *arguments],
            cwd=self.cwd, env=self.environment(), text=True, capture_output=True, timeout=DEADLINE_S * 2, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert status is None or done.returncode == status, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and come back at once."""
        process = subprocess.Popen(
            [sys.executable, "-m", "backbench.controller", *arguments],
            cwd=self.cwd, env=self.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        return process


def start_agent(data_dir: Path, listen: str = "127.0.0.1:0", *options: str) -> AgentProcess:
    """A real agent, ready; with `--tls` among the options, its first pairing code too."""
    command = [sys.executable, "-m", "backbench.agent", "serve", "--listen", listen, "--data-dir", str(data_dir)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on "), line
    code = process.stdout.readline().split()[2] if "--tls" in options else ""
    return AgentProcess(data_dir, process, line.removeprefix("listening on ").strip(), code)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    agent = start_agent(tmp_path / "agent-data")
    yield agent
    agent.stop()


@pytest.fixture(scope="module")
def shared_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """One agent for all tests of a file that leave it as it was."""
    agent = start_agent(tmp_path_factory.mktemp("agent-data"))
    yield agent
    agent.stop()


@pytest.fixture
def agents() -> Iterator[Callable[..., AgentProcess]]:
    """Start agents by hand; they are stopped at the end."""
    started: list[AgentProcess] = []

    def start(data_dir: Path, listen: str = "127.0.0.1:0", *options: str) -> AgentProcess:
        started.append(start_agent(data_dir, listen, *options))
        return started[-1]

    yield start
    for agent in started:
        agent.stop()


@pytest.fixture(scope="module")
def shared_backbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbench]:
    """One store for all tests of a file that can share it."""
    yield from a_command(tmp_path_factory.mktemp("backbench"))


@pytest.fixture
def backbench(tmp_path: Path) -> Iterator[Backbench]:
    yield from a_command(tmp_path)


def a_command(folder: Path) -> Iterator[Backbench]:
    """The command line with a store and a working folder below `folder`; what it started ends with it."""
    cwd = folder / "here"
    cwd.mkdir()
    command = Backbench(folder / "store", cwd)
    yield command
    for process in command.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def photos() -> Path:
    """The photographs that come with Backbench."""
    return Path(str(files("backbench.models") / "photos"))
