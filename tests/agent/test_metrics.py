"""The port of the metrics: what it does with callers that want something else."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from backbench.agent.meters import Meters

metrics = pytest.importorskip("backbench.agent.metrics")


async def no_status() -> Any:
    raise AssertionError("nobody asked")


async def test_a_connection_that_asks_for_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_IDLE_S", 0.05)
    port, end = metrics.serve_metrics("127.0.0.1", 0, no_status, Meters())
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as idle:
            assert await asyncio.to_thread(idle.recv, 1) == b""
    finally:
        await asyncio.to_thread(end)
