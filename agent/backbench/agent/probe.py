"""What the backends say of themselves, asked in a process of its own: `python -m backbench.agent.probe`.

Importing a vendor's library costs memory and can take the process down; neither is to happen to the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import sys
from typing import Any

from backbench.domain.device import Backend

_TIMEOUT_S = 60.0


async def probe_backends() -> tuple[Backend, ...]:
    """Every backend, available or not. A probe that crashes or hangs says so in the reason."""
    from backbench.agent.backends.table import backend_names

    # With exceptions among the results, for only then a cancelled gather waits until all have ended their processes.
    answers = await asyncio.gather(*(_probe(group) for group in _groups()), return_exceptions=True)
    found: dict[str, Backend] = {}
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        found.update((backend.name, backend) for backend in answer)
    return tuple(found[name] for name in backend_names())


def _groups() -> list[tuple[str, ...]]:
    """Backends that are asked in one process: those of one library, and with the first of them those that have none.

    A process takes a board half a second; a library that is installed may take its process down, and others with it.
    """
    from backbench.agent.backends.table import LIBRARIES, backend_names

    groups: dict[str, tuple[str, ...]] = {}
    absent: tuple[str, ...] = ()
    for name in backend_names():
        library = LIBRARIES.get(name, name)
        if name in LIBRARIES and importlib.util.find_spec(library) is None:
            absent += (name,)
        else:
            groups[library] = (*groups.get(library, ()), name)
    first, *others = [*groups.values()] or [()]
    return [(*first, *absent), *others]


async def probe_memory_floor() -> int | None:
    """The most memory in bytes that a worker holds before it has a backend; None where that cannot be told."""
    answer = await _asked("--memory-floor")
    try:
        return None if answer is None else int(answer[1])
    except ValueError:
        return None


async def _probe(names: tuple[str, ...]) -> list[Backend]:
    answer = await _asked(*names)
    if answer is not None and answer[0] == 0:
        return [_described(fields) for fields in json.loads(answer[1])]
    if len(names) > 1:  # one of them takes the others with it
        return [backend for name in names for backend in await _probe((name,))]
    reason = f"took over {_TIMEOUT_S:.0f} s" if answer is None else f"ended with status {answer[0]}"
    return [Backend(name, available=False, reason=f"probing it {reason}; see the agent's log") for name in names]


def _described(fields: dict[str, Any]) -> Backend:
    for name in ("providers", "precisions", "options", "engine_precisions"):
        fields[name] = tuple(fields[name])
    return Backend(**fields)


async def _asked(*question: str) -> tuple[int, bytes] | None:
    """The exit status and the answer of a probe; None where it took too long. It is gone when this ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "backbench.agent.probe", *question,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
    except asyncio.TimeoutError:
        return None
    finally:
        await _end(process)
    return process.returncode or 0, output


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a process that still goes on, and read what it wrote: only then are its pipes closed."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def main() -> None:
    """Print the descriptions of the named backends as a JSON list, or the memory floor in bytes."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answer
    with stream:
        if sys.argv[1] == "--memory-floor":
            stream.write(str(_memory_floor()))
            return
        from backbench.agent.backends.table import backend_named

        described = [dataclasses.asdict(backend_named(name).describe()) for name in sys.argv[1:]]
        stream.write(json.dumps(described))


def _memory_floor() -> int:
    for name in ("__main__", "inputs", "loop", "outputs"):
        importlib.import_module(f"backbench.agent.worker.{name}")
    from backbench.agent.worker.memory import read_memory

    return read_memory()["VmHWM"]


if __name__ == "__main__":
    main()
