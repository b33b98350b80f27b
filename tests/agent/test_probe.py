"""Asking the backends what they are: real processes, whatever is installed here."""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest

from backbench.agent import probe
from backbench.agent.backends.table import backend_names
from backbench.agent.probe import probe_backends

DEADLINE_S = 60.0


def probes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        try:
            if "backbench.agent.probe" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


async def test_every_backend_answers_with_its_own_name() -> None:
    described = await probe_backends()
    assert tuple(each.name for each in described) == backend_names()
    assert all(each.available or each.reason for each in described)


async def test_a_backend_that_takes_its_probe_down_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    whole = probe._asked

    async def crashing(*names: str) -> tuple[int, bytes] | None:
        asked.append(names)
        return (-11, b"") if "onnxruntime-cuda" in names else await whole(*names)

    monkeypatch.setattr(probe, "_asked", crashing)
    described = {backend.name: backend for backend in await probe_backends()}
    assert described["onnxruntime"].available
    assert described["onnxruntime-cuda"].reason == "probing it ended with status -11; see the agent's log"
    assert len(asked[0]) > 1
    assert ("onnxruntime",) in asked


async def test_an_agent_that_stops_at_once_leaves_no_probe_behind() -> None:
    asking = asyncio.ensure_future(probe_backends())
    until = time.monotonic() + DEADLINE_S
    while not (started := probes()) and not asking.done() and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert started
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert not any(process.is_running() for process in started)
