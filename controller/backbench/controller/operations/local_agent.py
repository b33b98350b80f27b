"""An agent on this machine, in a process of its own, for as long as a block runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from backbench.domain.errors import AgentUnreachable, BackendUnavailable

START_S = 30.0
_STOP_S = 15.0
_READY = "listening on "


@contextlib.contextmanager
def local_agent(data_dir: Path) -> Iterator[str]:
    """Start an agent over a data folder and yield its address; it is stopped when the block ends, however it does.

    It is not in this process's group, so that an interrupt from the keyboard reaches it through the controller only.
    """
    log = data_dir / "agent.log"
    data_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "backbench.agent", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True)
    try:
        yield _address(process, log)
    finally:
        _stop(process)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline() if process.stdout else ""
    finally:
        watchdog.cancel()
    if line.startswith(_READY):
        return line.removeprefix(_READY).strip()
    process.wait()
    words = log.read_text(errors="replace").strip().splitlines()
    if any("No module named" in word for word in words):
        raise BackendUnavailable(f"the agent cannot start: {words[-1]}; install it: pip install 'backbench[agent]'")
    raise AgentUnreachable(f"the agent did not start: {words[-1] if words else 'it said nothing'}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        # Its workers are in its group and end with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
