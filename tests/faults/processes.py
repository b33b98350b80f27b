"""The real processes of a campaign: an agent over one data folder, controllers over one store, and who is left over."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import psutil

DEADLINE_S = 150.0
"""A step that takes longer than this is stuck."""
POLL_S = 0.002
_SUBREAPER = 36
_SERVE = (sys.executable, "-m", "backbench.agent", "serve")


class Agent:
    """`backbench-agent serve`, killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "agent"
        self.log = folder / "agent.log"
        self._temporary = folder / "agent-tmp"
        self._temporary.mkdir(parents=True, exist_ok=True)
        self.address = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Of the agent that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it listens."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*_SERVE, "--listen", self.address, "--data-dir", str(self.data_dir)],
                stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "TMPDIR": str(self._temporary)},
            )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), f"the agent did not start: {self.log.read_text()[-2000:]}"
        self.address = line.split()[2]

    def end(self, number: signal.Signals) -> None:
        """Send it a signal that ends it, and wait for that."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(DEADLINE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def children(self) -> list[psutil.Process]:
        """Its workers, and what makes models ready for them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def worker(self) -> psutil.Process | None:
        """The process that measures or prepares now."""
        modules = {"backbench.agent.worker", "backbench.agent.prepare"}
        for child in self.children():
            with contextlib.suppress(psutil.Error):
                if modules & set(child.cmdline()):
                    return child
        return None

    def leftovers(self) -> list[str]:
        """What lies in the folder for temporary files."""
        return sorted(path.name for path in self._temporary.iterdir())


class Backbench:
    """The command line over one store."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self._folder = folder
        self._environment = {**os.environ, "BACKBENCH_HOME": str(self.store), "NO_COLOR": "1", "COLUMNS": "200"}

    def start(self, *arguments: str) -> Command:
        """Start a command and come back at once."""
        return Command(arguments, self._folder, self._environment)

    def __call__(self, *arguments: str) -> Command:
        """Run a command to its end."""
        command = self.start(*arguments)
        command.wait()
        return command


class Command:
    """One command that was started; what it says goes to files."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str]) -> None:
        self.arguments = arguments
        self._out = folder / "stdout.txt"
        self._err = folder / "stderr.txt"
        with self._open(self._out) as out, self._open(self._err) as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backbench.controller", *arguments],
                cwd=folder, env=environment, stdout=out, stderr=err, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @staticmethod
    def _open(path: Path) -> TextIO:
        return path.open("w")

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def wait(self) -> None:
        """Until it has ended; one that is stuck is killed."""
        try:
            self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{' '.join(self.arguments)} did not end within {DEADLINE_S:.0f} s") from None

    @property
    def stdout(self) -> str:
        """What it has printed."""
        return self._out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has said beside that."""
        return self._err.read_text(errors="replace")


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Every process that loses its parent becomes a child of this one meanwhile, so that none escapes the count."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_SUBREAPER, 0, 0, 0, 0)


def descendants() -> set[int]:
    """The processes below this one."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def strays(expected: set[int], others: set[int], seconds: float = 15.0) -> list[str]:
    """The command lines of this process's descendants that do not end in time.

    Left out are the expected ones, but not what is below them, and `others` with everything below them.
    """
    left: list[psutil.Process] = []

    def gone() -> bool:
        nonlocal left
        left = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                above = {child.pid, *(parent.pid for parent in child.parents())}
                if child.pid in expected or others & above:
                    continue
                if child.status() == psutil.STATUS_ZOMBIE:
                    if child.ppid() == os.getpid():
                        os.waitpid(child.pid, os.WNOHANG)
                    continue
                left.append(child)
        return not left

    wait_for(gone, seconds)
    return [_said(child) for child in left]


def _said(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline()[:6])} ({process.status()})"
    return f"{process.pid}"


def wait_for(condition: Callable[[], bool], seconds: float = DEADLINE_S) -> bool:
    """Poll until it holds; False when it did not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
