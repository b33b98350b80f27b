"""The agent's numbers for Prometheus, on a port of their own that is opened only where it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backbench.agent.meters import Meters
from backbench.domain.device import AgentStatus
from backbench.domain.errors import AddressUnusable

ReadStatus = Callable[[], Awaitable[AgentStatus]]
_PREFIX = "backbench_"
_ANSWER_S = 5.0
_IDLE_S = 10.0
"""How long a connection may stay open without a request: it holds a thread."""


class AgentCollector(Collector):
    """Reads the agent when it is asked, from whatever thread: the agent itself answers in its event loop."""

    def __init__(self, read: ReadStatus, meters: Meters, loop: asyncio.AbstractEventLoop) -> None:
        self._read = read
        self._meters = meters
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        """Every metric, as it is now."""
        return asyncio.run_coroutine_threadsafe(self._metrics(), self._loop).result(_ANSWER_S)

    async def _metrics(self) -> list[Metric]:
        status, meters = await self._read(), self._meters
        calls = CounterMetricFamily(f"{_PREFIX}rpc_calls", "Calls by method and status.", labels=("method", "code"))
        for labels, count in meters.calls.items():
            calls.add_metric(labels, count)
        return [
            _gauge("agent_start_time_seconds", "Start of the agent.", meters.started_unix_ns / 1e9),
            _by("runs", "Runs that the agent keeps, by state.", "state", status.run_counts),
            _gauge("queue_length", "Runs that wait.", len(status.queued_run_ids)),
            _gauge("uncollected_runs", "Ended runs that no controller has collected.", status.uncollected_count),
            _counts("frames", "Frames by outcome, warm-up included.", "outcome", meters.frames),
            _counts("run_failures", "Runs that failed, by reason.", "reason", meters.failures),
            CounterMetricFamily(f"{_PREFIX}upload_bytes", "Bytes of artifacts received.", value=meters.upload_bytes),
            _gauge("artifact_bytes", "Artifacts and unfinished uploads.", status.artifact_bytes),
            _gauge("artifact_limit_bytes", "Room for artifacts.", status.artifact_limit_bytes),
            _gauge("journal_bytes", "Journals of runs.", status.journal_bytes),
            _gauge("journal_limit_bytes", "Room for journals.", status.journal_limit_bytes),
            _gauge("disk_free_bytes", "Free room on the disk of the data folder.", status.free_bytes),
            calls,
        ]


def serve_metrics(host: str, port: int, read: ReadStatus, meters: Meters) -> tuple[int, Callable[[], None]]:
    """Answer `GET /metrics` there, in a thread; returns the port and what ends it. Raises AddressUnusable."""
    registry = CollectorRegistry()
    registry.register(AgentCollector(read, meters, asyncio.get_running_loop()))
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise AddressUnusable(
            f"cannot serve metrics on {host}:{port}: {error.strerror}; choose another address with --metrics-listen"
        ) from error

    handler: Any = server.RequestHandlerClass
    server.RequestHandlerClass = type("Handler", (handler,), {"timeout": _IDLE_S})

    def stop() -> None:
        server.shutdown()
        server.server_close()

    return server.server_port, stop


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)


def _by(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _counts(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
