"""DeviceService: who this device is, and live telemetry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc

from backbench.agent.sampler import DEFAULT_RATE_HZ, MAX_RATE_HZ, Sampler
from backbench.agent.sensors.base import Sensor
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
        sensors: Sequence[Sensor],
        status: Callable[[], Awaitable[AgentStatus]],
    ) -> None:
        self._describe = describe
        self._sensors = sensors
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
        """One sample at a time, until the caller hangs up."""
        rate_hz = request.rate_hz or DEFAULT_RATE_HZ
        if not 0.1 <= rate_hz <= MAX_RATE_HZ:
            raise InvalidArgument(f"rate_hz is {rate_hz:g}; it must lie between 0.1 and {MAX_RATE_HZ:g}")
        sampler = Sampler(self._sensors)
        while True:
            sampler.sample()
            if (block := sampler.take()) is not None:
                yield pb.WatchTelemetryResponse(telemetry=telemetry_to_pb(block))
            await asyncio.sleep(1 / rate_hz)
