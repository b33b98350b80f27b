"""What the backends say of themselves, asked in a process of its own: `python -m backbench.agent.probe`.

Importing a vendor's library costs memory and can take the process down; neither is to happen to the agent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import sys
from typing import Any

from backbench.domain.device import Backend

_TIMEOUT_S = 60.0


async def probe_backends() -> tuple[Backend, ...]:
    """Every backend, available or not. A probe that crashes or hangs says so in the reason."""
    from backbench.agent.backends.table import backend_names

    found = await asyncio.gather(*(_probe(name) for name in backend_names()))
    return tuple(found)


async def probe_memory_floor() -> int | None:
    """The most memory in bytes that a worker holds before it has a backend; None where that cannot be told."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "backbench.agent.probe", "--memory-floor",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
        return int(output)
    except (asyncio.TimeoutError, ValueError):
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _probe(name: str) -> Backend:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "backbench.agent.probe", name,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return Backend(name, available=False, reason=f"probing it took over {_TIMEOUT_S:.0f} s; see the agent's log")
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        return Backend(name, available=False, reason=f"probing it ended with status {process.returncode}")
    fields: dict[str, Any] = json.loads(output)
    fields.update({name: tuple(fields[name]) for name in ("providers", "precisions", "options", "engine_precisions")})
    return Backend(**fields)


def main() -> None:
    """Print one backend's description as JSON, or the memory floor in bytes."""
    if sys.argv[1] == "--memory-floor":
        sys.stdout.write(str(_memory_floor()))
        return
    from backbench.agent.backends.table import backend_named

    sys.stdout.write(json.dumps(dataclasses.asdict(backend_named(sys.argv[1]).describe())))


def _memory_floor() -> int:
    for name in ("__main__", "inputs", "loop", "outputs"):
        importlib.import_module(f"backbench.agent.worker.{name}")
    from backbench.agent.worker.memory import read_memory

    return read_memory()["VmHWM"]


if __name__ == "__main__":
    main()
