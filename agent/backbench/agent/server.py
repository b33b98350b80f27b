"""The composition root: builds the parts, serves until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from backbench.agent import __version__
from backbench.agent.artifacts import ArtifactStore
from backbench.agent.cgroups import Cgroups
from backbench.agent.clocks import Clocks
from backbench.agent.data_dir import DataDir
from backbench.agent.engines import EngineCache
from backbench.agent.execution import Execution
from backbench.agent.identity import kept_device_id, kept_serial_key, read_identity
from backbench.agent.leases import Leases
from backbench.agent.listening import bind_port, bind_socket, make_room, reachable_name, remove_socket
from backbench.agent.logs import LastError
from backbench.agent.meters import Meters
from backbench.agent.models import ModelCache
from backbench.agent.probe import probe_backends, probe_memory_floor
from backbench.agent.processes import clear_folders
from backbench.agent.recording import Note
from backbench.agent.registry import Registry
from backbench.agent.run_store import RunStore
from backbench.agent.runs import Emit, Runs
from backbench.agent.sampling.hub import Telemetry
from backbench.agent.security.pairing import DEFAULT_TTL_S
from backbench.agent.security.setup import Security
from backbench.agent.sensors.simulations import simulation_name
from backbench.agent.sensors.trees import open_tree
from backbench.agent.services.artifact import ArtifactService
from backbench.agent.services.call_counter import CallCounter
from backbench.agent.services.device import DeviceService
from backbench.agent.services.interceptor import Interceptor
from backbench.agent.services.run import RunService
from backbench.agent.services.security import SecurityService
from backbench.agent.settings import Settings, metrics_address, uses_tls
from backbench.agent.supervisor import Surroundings
from backbench.agent.turns import Turns
from backbench.agent.validation import FEATURES, check_backend, check_gate, check_spec
from backbench.domain.device import (
    MIN_PROTOCOL_REVISION,
    PROTOCOL_REVISION,
    AgentStatus,
    Backend,
    Device,
    DeviceIdentity,
    Limits,
)
from backbench.domain.errors import BackendUnavailable, InvalidRunSpec, UnknownBackend
from backbench.domain.event import Happening
from backbench.domain.frame import FrameBlock
from backbench.domain.run import RunFailure, RunSpec
from backbench.v1 import artifact_pb2_grpc, device_pb2_grpc, run_pb2_grpc, security_pb2_grpc

log = logging.getLogger(__name__)

_GRACE_S = 3.0
_SERVICES = ("", *(f"backbench.v1.{name}Service" for name in ("Artifact", "Device", "Run", "Security")))
"""Of which the standard health service tells; "" stands for all of them."""
_MAX_CALLS = 4096
_MAX_CONNECTIONS = 2048


async def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises BackbenchError when the agent cannot start."""
    uses_tls(settings)  # an address that cannot be leaves no folder behind
    metrics_address(settings)
    with DataDir(settings.data_dir):
        agent = Agent(settings)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            port = await agent.start()
            host = settings.listen.rpartition(":")[0]
            sys.stdout.write(f"listening on {host}:{port}\n")
            if settings.simulate:
                name = simulation_name(settings.simulate)
                sys.stdout.write(f"simulating {name}: telemetry is replayed, frames are real\n")
            if agent.metrics_port is not None:
                sys.stdout.write(f"metrics on port {agent.metrics_port}, path /metrics\n")
            if code := agent.security.first_code():
                name = reachable_name(settings.listen, port)
                sys.stdout.write(f"pairing code {code} ({DEFAULT_TTL_S // 60} minutes): backbench pair {name}\n")
            sys.stdout.flush()
            await stop.wait()
        finally:
            await agent.stop()


class Agent:
    """One agent over one data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        root = settings.data_dir.absolute()  # workers have a working folder of their own
        self._registry = Registry(root / "agent.sqlite")
        self._meters = Meters()
        self._last_error = LastError()
        limits = settings.limits
        self._artifacts = ArtifactStore(root, limits.artifact_bytes, limits.artifact_store_bytes, self._in_use)
        self._models = ModelCache(root)
        clear_folders(root / "work")
        self._telemetry = Telemetry(settings.simulate, root / "work")
        self._clocks = Clocks(root, allowed=settings.allow_set_clocks, root=settings.clocks_root)
        engines = EngineCache(root / "engines")
        engines.clear()
        self._surroundings = Surroundings(Cgroups.open(), self._telemetry, root / "work", self._clocks, engines=engines)
        self._floor_bytes: asyncio.Task[int | None] | None = None
        self._leases = Leases(self._registry)
        runs = RunStore(root, self._registry, limits.journal_bytes, simulation=settings.simulate)
        self._runs = Runs(runs, self._perform, limits.queue_length, self._leases)
        self._instance_id = uuid.uuid4().hex
        self._device_id = kept_device_id(root, self._registry)
        self._serial_key = kept_serial_key(root)
        self.security = Security(root, self._device_id, settings.call_limits, tls=uses_tls(settings))
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._listen = settings.listen
        self.metrics_port: int | None = None
        self._end_metrics: Callable[[], None] | None = None
        self._tasks: list[asyncio.Task[object]] = []
        self._backends: asyncio.Task[tuple[Backend, ...]] | None = None

    async def start(self) -> int:
        """Listen and take up queued runs; returns the port. Raises AddressUnusable."""
        message_bytes = self._settings.limits.message_bytes
        server = grpc.aio.server(
            interceptors=[
                *([] if self._settings.metrics_listen is None else [CallCounter(self._meters)]),
                Interceptor(self.security.gate, self._settings.upload_stall_s),
            ],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", message_bytes),
                ("grpc.max_send_message_length", message_bytes),
                ("grpc.max_metadata_size", 32 << 10),
                # A caller may be ahead by the chunk that is read, and no more: what is on its way is lost with a cut.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                # By itself gRPC waits longer than that for a ping's answer, and stops asking on a stream without data.
                ("grpc.http2.ping_timeout_ms", 15_000),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
            ],
            maximum_concurrent_rpcs=_MAX_CALLS,
        )
        artifacts = ArtifactService(self._artifacts, self._runs, self._meters)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(artifacts, server)
        device = DeviceService(self._describe, self._telemetry, self._status)
        device_pb2_grpc.add_DeviceServiceServicer_to_server(device, server)
        run_pb2_grpc.add_RunServiceServicer_to_server(RunService(self._runs, self._leases, self._check), server)
        security_pb2_grpc.add_SecurityServiceServicer_to_server(SecurityService(self.security), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        make_room(_MAX_CONNECTIONS)
        port = bind_port(server, self._settings.listen, self.security.credentials)
        bind_socket(server, self._settings.data_dir)
        self._clocks.restore()
        self._runs.recover()
        await server.start()
        self._server = server
        self._listen = f"{self._settings.listen.rpartition(':')[0]}:{port}"
        self._last_error.__enter__()
        self._serve_metrics()
        for name in _SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._telemetry.start()
        self._backends = asyncio.ensure_future(probe_backends())
        self._floor_bytes = asyncio.ensure_future(probe_memory_floor())
        self._tasks = [self._backends, self._floor_bytes, asyncio.ensure_future(self._runs.serve())]
        return port

    async def stop(self) -> None:
        """Interrupt what runs, keep what was measured, close everything."""
        await self._health.enter_graceful_shutdown()
        await self._runs.stop()
        await self._telemetry.close()
        if self._end_metrics is not None:
            await asyncio.to_thread(self._end_metrics)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(_GRACE_S)
            remove_socket(self._settings.data_dir)
        self.security.gate.close()
        self._registry.close()
        self._last_error.__exit__()

    def _serve_metrics(self) -> None:
        if (address := metrics_address(self._settings)) is None:
            return
        try:
            from backbench.agent.metrics import serve_metrics
        except ImportError as error:
            raise BackendUnavailable(
                f"--metrics-listen needs {error.name}; pip install 'backbench[metrics]'"
            ) from error
        self.metrics_port, self._end_metrics = serve_metrics(*address, self._status, self._meters)

    def _in_use(self, sha256: str) -> bool:
        return self._runs.uses(sha256)

    async def _status(self) -> AgentStatus:
        journals = self._runs.store.use()
        return AgentStatus(
            agent_version=__version__,
            started_unix_ns=self._meters.started_unix_ns,
            listen=self._listen,
            tls=uses_tls(self._settings),
            running_run_ids=self._runs.running,
            queued_run_ids=self._runs.queued,
            run_counts=self._registry.counts(),
            uncollected_count=journals.uncollected_runs,
            artifact_bytes=self._artifacts.used_bytes(),
            artifact_limit_bytes=self._artifacts.quota_bytes,
            journal_bytes=journals.used_bytes,
            journal_limit_bytes=journals.quota_bytes,
            free_bytes=self._artifacts.free_bytes(),
            last_error=self._last_error.message,
            last_error_unix_ns=self._last_error.unix_ns,
        )

    async def _describe(self) -> Device:
        survey = await self._telemetry.survey()
        return Device(
            device_id=self._device_id,
            identity=self._identity(),
            backends=await self._probed(),
            sensors=(*survey.channels, *survey.extra_channels),
            sensor_sources=survey.sources,
            limits=await self._limits(),
            agent_version=__version__,
            protocol_revision=PROTOCOL_REVISION,
            min_protocol_revision=MIN_PROTOCOL_REVISION,
            agent_instance_id=self._instance_id,
            features=FEATURES,
            simulated=bool(self._settings.simulate),
            simulation=simulation_name(self._settings.simulate),
        )

    def _identity(self) -> DeviceIdentity:
        tree = open_tree(self._settings.simulate, time.perf_counter_ns())
        try:
            return read_identity(tree, self._serial_key)
        finally:
            tree.close()

    async def _limits(self) -> Limits:
        floor = None if self._floor_bytes is None else await asyncio.shield(self._floor_bytes)
        return replace(
            self._settings.limits,
            free_bytes=self._artifacts.free_bytes(),
            memory_limit_floor_bytes=floor,
            artifact_store_bytes=self._artifacts.quota_bytes,
        )

    async def _probed(self) -> tuple[Backend, ...]:
        if self._backends is None:
            return ()
        return await asyncio.shield(self._backends)

    async def _check(self, spec: RunSpec) -> None:
        check_spec(spec, await self._limits())
        await self._check_telemetry(spec)
        backends = {backend.name: backend for backend in await self._probed()}
        backend = backends.get(spec.backend.name)
        if backend is None:
            raise UnknownBackend(f'no backend "{spec.backend.name}"; this agent has {", ".join(backends)}')
        if not backend.available:
            raise BackendUnavailable(f"backend {backend.name} cannot be used here: {backend.reason}")
        check_backend(spec.backend, backend)
        for sha256 in spec.artifacts:
            self._artifacts.path(sha256)

    async def _check_telemetry(self, spec: RunSpec) -> None:
        await self._telemetry.check_extra(spec.extra_sources)
        if spec.wait_cool_mc is not None:
            check_gate(await self._telemetry.survey())
        if spec.set_clocks:
            if self._settings.simulate:
                raise InvalidRunSpec("a simulated device has no clocks to set; leave --set-clocks away")
            self._clocks.check()

    async def _perform(self, spec: RunSpec, emit: Emit, stop: asyncio.Event, turns: Turns) -> RunFailure | None:
        def counted(happening: Happening | Note) -> None:
            if isinstance(happening, FrameBlock):
                self._meters.measured(happening)
            emit(happening)

        execution = Execution(
            spec,
            self._artifacts,
            self._models,
            counted,
            frame_limit=self._settings.limits.frame_count,
            surroundings=self._surroundings,
            turns=turns,
        )
        failure = await execution.perform(stop)
        if failure is not None:
            self._meters.failed(failure)
        return failure
