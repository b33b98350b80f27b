"""The processes that an agent starts for a run: little around them, and ended with everything that they started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from backbench.agent.cgroups import Group

GRACE_S = 1.0
"""How long a process that was asked to end may take before it is killed."""
_MARK = "BACKBENCH_LAUNCH"
_ENDING_S = 10.0
_POLL_S = 0.02
_LONGEST_LINE = 2 << 20
"""An event out of a longer one would fit into no message."""
_KEPT = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "GLIBC_TUNABLES"})
_KEPT_PREFIXES = (
    "LC_", "LD_", "PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "ORT_", "CUDA_", "NVIDIA_", "TRT_",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started; it and all its descendants carry `mark` in their environment."""

    process: asyncio.subprocess.Process
    mark: str
    folder: Path

    @property
    def ended(self) -> bool:
        """Whether the process is gone, whoever still holds its pipes."""
        return self.process.returncode is not None


async def start(module: str, *arguments: str, descriptors: tuple[int, ...] = (), folders: Path | None = None) -> Child:
    """Start `python -m module` in a session, an environment and a working folder of its own, with three pipes.

    Its folder is made in `folders`, or where temporary files are; `end` removes it.
    """
    mark = f"{os.getpid()}-{secrets.token_hex(8)}"
    folder = Path(tempfile.mkdtemp(prefix="worker-", dir=folders))
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, limit=_LONGEST_LINE,
            pass_fds=descriptors, start_new_session=True, cwd=folder,
            env={**kept_environment(os.environ), _MARK: mark, "TMPDIR": str(folder)},
        )  # fmt: skip
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Child(process, mark, folder)


def kept_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker is given of an environment: how to find and tune libraries, and nothing that may be a secret."""
    kept = {name: value for name, value in environment.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    if "PYTHONPATH" in kept:  # the worker starts in another folder
        kept["PYTHONPATH"] = os.pathsep.join(
            str(Path(part).absolute()) for part in kept["PYTHONPATH"].split(os.pathsep) if part
        )
    return kept


async def end(child: Child, group: Group | None = None) -> None:
    """End a process and everything that it started, sessions of their own included, and remove its folder.

    It is asked first (SIGTERM), where it still lives, and killed with the rest after GRACE_S at the latest.
    """
    found = set(_descendants(child))
    if not child.ended:
        _signal_group(child.process, signal.SIGTERM)
        await _gone(child, GRACE_S)
    give_up_s = time.monotonic() + _ENDING_S
    while True:
        kill_group(child.process)
        if group is not None:
            group.kill()
        for process in found:
            with contextlib.suppress(psutil.Error):  # psutil looks whether the number is another process's by now
                process.kill()
        found = set(_marked(child))
        if not found or time.monotonic() > give_up_s:
            break
        await asyncio.sleep(_POLL_S)
    await _gone(child, _ENDING_S)
    shutil.rmtree(child.folder, ignore_errors=True)


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill a process and what it started in its own session, at once."""
    _signal_group(process, signal.SIGKILL)


def clear_folders(folders: Path) -> None:
    """Make the folder of working folders; remove what an agent that was killed left in it, and kill what it left.

    A worker ends with its agent, but what a worker had started does not.
    """
    folders.mkdir(mode=0o700, parents=True, exist_ok=True)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if _MARK in environment and Path(environment.get("TMPDIR", "")).parent == folders:
                process.kill()
    for left_behind in folders.glob("worker-*"):
        shutil.rmtree(left_behind, ignore_errors=True)


async def _gone(child: Child, limit_s: float) -> None:
    # Not Process.wait: in some versions of Python it also waits for the pipes, which a descendant may hold open.
    until_s = time.monotonic() + limit_s
    while not child.ended and time.monotonic() < until_s:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _descendants(child: Child) -> Iterator[psutil.Process]:
    """What it started: by their parents while it lives, and by the mark."""
    if not child.ended:
        with contextlib.suppress(psutil.Error):
            yield from psutil.Process(child.process.pid).children(recursive=True)
    yield from _marked(child)


def _marked(child: Child) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        if process.pid == child.process.pid:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == child.mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process
