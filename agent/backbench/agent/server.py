"""The composition root: builds the parts, serves until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from backbench.agent import __version__
from backbench.agent.artifacts import ArtifactStore
from backbench.agent.cgroups import Cgroups
from backbench.agent.data_dir import DataDir
from backbench.agent.execution import Execution
from backbench.agent.identity import read_identity
from backbench.agent.leases import Leases
from backbench.agent.models import ModelCache
from backbench.agent.probe import probe_backends, probe_memory_floor
from backbench.agent.registry import Registry
from backbench.agent.runs import Emit, Runs
from backbench.agent.sampler import measured_channels
from backbench.agent.sensors.table import open_sensors
from backbench.agent.services.artifact import ArtifactService
from backbench.agent.services.device import DeviceService
from backbench.agent.services.interceptor import ErrorInterceptor
from backbench.agent.services.run import RunService
from backbench.agent.settings import Settings, TlsFiles, check_listen
from backbench.agent.turns import Turns
from backbench.agent.validation import FEATURES, check_spec
from backbench.domain.device import MIN_PROTOCOL_REVISION, PROTOCOL_REVISION, Backend, Device, Limits
from backbench.domain.errors import AddressUnusable, BackendUnavailable, InvalidArgument, UnknownBackend
from backbench.domain.run import RunFailure, RunSpec
from backbench.v1 import artifact_pb2_grpc, device_pb2_grpc, run_pb2_grpc

log = logging.getLogger(__name__)

_GRACE_S = 3.0


async def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises BackbenchError when the agent cannot start."""
    check_listen(settings)
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
            sys.stdout.flush()
            await stop.wait()
        finally:
            await agent.stop()


class Agent:
    """One agent over one data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        root = settings.data_dir
        self._registry = Registry(root / "agent.sqlite")
        self._sensors = open_sensors()
        self._artifacts = ArtifactStore(root, settings.limits.artifact_bytes)
        self._models = ModelCache(root)
        self._cgroups = Cgroups.open()
        self._floor_bytes: asyncio.Task[int | None] | None = None
        self._runs = Runs(root, self._registry, self._perform, settings.limits.queue_length)
        self._instance_id = uuid.uuid4().hex
        self._device_id = self._registry.setting("device_id") or uuid.uuid4().hex
        self._registry.put_setting("device_id", self._device_id)
        self._server: grpc.aio.Server | None = None
        self._tasks: list[asyncio.Task[object]] = []
        self._backends: asyncio.Task[tuple[Backend, ...]] | None = None

    async def start(self) -> int:
        """Listen and take up queued runs; returns the port. Raises AddressUnusable."""
        message_bytes = self._settings.limits.message_bytes
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", message_bytes),
                ("grpc.max_send_message_length", message_bytes),
                ("grpc.max_metadata_size", 32 << 10),
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
            maximum_concurrent_rpcs=256,
        )
        leases = Leases(self._registry)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(ArtifactService(self._artifacts, self._runs), server)
        device_pb2_grpc.add_DeviceServiceServicer_to_server(DeviceService(self._describe, self._sensors), server)
        run_pb2_grpc.add_RunServiceServicer_to_server(RunService(self._runs, leases, self._check), server)
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = _bind(server, self._settings)
        self._runs.recover()
        await server.start()
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        self._server = server
        self._backends = asyncio.ensure_future(probe_backends())
        self._floor_bytes = asyncio.ensure_future(probe_memory_floor())
        self._tasks = [self._backends, self._floor_bytes, asyncio.ensure_future(self._runs.serve())]
        return port

    async def stop(self) -> None:
        """Interrupt what runs, keep what was measured, close everything."""
        await self._runs.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(_GRACE_S)
        self._registry.close()

    async def _describe(self) -> Device:
        return Device(
            device_id=self._device_id,
            identity=read_identity(),
            backends=await self._probed(),
            sensors=measured_channels(self._sensors),
            limits=await self._limits(),
            agent_version=__version__,
            protocol_revision=PROTOCOL_REVISION,
            min_protocol_revision=MIN_PROTOCOL_REVISION,
            agent_instance_id=self._instance_id,
            features=FEATURES,
        )

    async def _limits(self) -> Limits:
        floor = None if self._floor_bytes is None else await asyncio.shield(self._floor_bytes)
        free = self._artifacts.free_bytes()
        return replace(self._settings.limits, free_bytes=free, memory_limit_floor_bytes=floor)

    async def _probed(self) -> tuple[Backend, ...]:
        if self._backends is None:
            return ()
        return await asyncio.shield(self._backends)

    async def _check(self, spec: RunSpec) -> None:
        check_spec(spec, await self._limits())
        backends = {backend.name: backend for backend in await self._probed()}
        backend = backends.get(spec.backend.name)
        if backend is None:
            raise UnknownBackend(f'no backend "{spec.backend.name}"; this agent has {", ".join(backends)}')
        if not backend.available:
            raise BackendUnavailable(f"backend {backend.name} cannot be used here: {backend.reason}")
        for sha256 in spec.artifacts:
            self._artifacts.path(sha256)

    async def _perform(self, spec: RunSpec, emit: Emit, stop: asyncio.Event, turns: Turns) -> RunFailure | None:
        frames = self._settings.limits.frame_count
        execution = Execution(
            spec,
            self._artifacts,
            self._models,
            self._sensors,
            emit,
            frame_limit=frames,
            cgroups=self._cgroups,
            turns=turns,
        )
        return await execution.perform(stop)


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    bind: Callable[[], int]
    if settings.tls is None:
        bind = lambda: server.add_insecure_port(settings.listen)  # noqa: E731
    else:
        credentials = _credentials(settings.tls)
        bind = lambda: server.add_secure_port(settings.listen, credentials)  # noqa: E731
    try:
        port = bind()
    except RuntimeError:
        port = 0
    if port == 0:
        raise AddressUnusable(
            f"cannot listen on {settings.listen}: the port is in use or the address is not this machine's; "
            "choose another with --listen, or stop the agent that has it"
        )
    return port


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    try:
        key, certificate = tls.key.read_bytes(), tls.certificate.read_bytes()
        authority = tls.client_authority.read_bytes() if tls.client_authority else None
    except OSError as error:
        raise InvalidArgument(f"TLS file {error.filename} cannot be read: {error.strerror}") from error
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=authority is not None)
