"""DeviceService: who this device is, and live telemetry."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from backbench.agent.sampling.hub import DEFAULT_WATCH_HZ, HIGHEST_WATCH_HZ, LOWEST_WATCH_HZ, Telemetry
from backbench.agent.sampling.lines import Plan
from backbench.domain.device import AgentStatus, Device
from backbench.domain.errors import InvalidArgument
from backbench.v1 import device_pb2 as pb
from backbench.v1 import device_pb2_grpc
from backbench.wire.columns import telemetry_to_pb
from backbench.wire.mapping import to_message

Context = grpc.aio.ServicerContext[Any, Any]


class DeviceService(device_pb2_grpc.DeviceServiceServicer):
    """See backbench/v1/device.proto."""

    def __init__(
        self,
        describe: Callable[[], Awaitable[Device]],
        telemetry: Telemetry,
        status: Callable[[], Awaitable[AgentStatus]],
    ) -> None:
        self._describe = describe
        self._telemetry = telemetry
        self._status = status

    async def GetDevice(self, request: pb.GetDeviceRequest, context: Context) -> pb.GetDeviceResponse:  # noqa: ARG002, N802
        """Everything the agent knows of itself."""
        return pb.GetDeviceResponse(device=to_message(await self._describe(), pb.Device()))

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:  # noqa: ARG002, N802
        """How the agent itself is."""
        return pb.GetStatusResponse(status=to_message(await self._status(), pb.AgentStatus()))

    async def WatchTelemetry(  # noqa: N802
        self,
        request: pb.WatchTelemetryRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchTelemetryResponse]:
        """Samples of every source about once a second, until the caller hangs up."""
        rate_hz = request.rate_hz or DEFAULT_WATCH_HZ
        if not LOWEST_WATCH_HZ <= rate_hz <= HIGHEST_WATCH_HZ:
            raise InvalidArgument(
                f"rate_hz is {rate_hz:g}; it must lie between {LOWEST_WATCH_HZ:g} and {HIGHEST_WATCH_HZ:g}"
            )
        async with contextlib.aclosing(self._telemetry.watch(Plan(rate_hz, tuple(request.extra_sources)))) as blocks:
            async for block in blocks:
                yield pb.WatchTelemetryResponse(telemetry=telemetry_to_pb(block))
