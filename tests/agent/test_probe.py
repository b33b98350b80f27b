"""Asking the backends what they are: real processes, whatever is installed here."""

from __future__ import annotations

import asyncio
import time

import psutil

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


async def test_an_agent_that_stops_at_once_leaves_no_probe_behind() -> None:
    asking = asyncio.ensure_future(probe_backends())
    until = time.monotonic() + DEADLINE_S
    while len(started := probes()) < len(backend_names()) and not asking.done() and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert started
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert not any(process.is_running() for process in started)
