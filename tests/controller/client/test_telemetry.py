"""Live telemetry over a real socket, from servers that do what the agent does at its edges."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from backbench.controller.client import AgentClient
from backbench.domain.errors import AgentUnreachable
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn
from backbench.v1 import device_pb2, device_pb2_grpc
from backbench.wire.columns import telemetry_to_pb

BLOCK = TelemetryBlock((1, 2), (TelemetryColumn("temp.cpu", "mC", (46_000, None)),))


class Sensors(device_pb2_grpc.DeviceServiceServicer):
    """Two blocks; then it goes on without a word, or ends in a certain way."""

    def __init__(self, end: grpc.StatusCode | None = None) -> None:
        self._end = end
        self.asked: list[Any] = []

    def WatchTelemetry(self, request: Any, context: Any) -> Iterator[device_pb2.WatchTelemetryResponse]:  # noqa: N802
        self.asked.append(request)
        for _ in range(2):
            yield device_pb2.WatchTelemetryResponse(telemetry=telemetry_to_pb(BLOCK))
        if self._end is not None:
            context.abort(self._end, "Socket closed")
        while context.is_active():
            time.sleep(0.01)


def test_blocks_come_as_they_were_sent_and_the_request_says_what_was_asked_for(serve: Any) -> None:
    sensors = Sensors()  # type: ignore[abstract]
    with AgentClient(serve(devices=sensors)) as client:
        blocks = client.watch_telemetry(5.0, ("pmic",))
        assert [next(blocks), next(blocks)] == [BLOCK, BLOCK]
        blocks.close()
    assert (sensors.asked[0].rate_hz, list(sensors.asked[0].extra_sources)) == (5.0, ["pmic"])


def test_a_watch_of_some_length_ends_in_good_order(serve: Any) -> None:
    with AgentClient(serve(devices=Sensors())) as client:  # type: ignore[abstract]
        assert list(client.watch_telemetry(5.0, seconds=0.5)) == [BLOCK, BLOCK]


@pytest.mark.parametrize(
    ("code", "error"),
    [(grpc.StatusCode.UNAVAILABLE, AgentUnreachable), (grpc.StatusCode.INTERNAL, AgentUnreachable)],
)
def test_a_watch_that_is_cut_says_so_in_one_line(serve: Any, code: grpc.StatusCode, error: type[Exception]) -> None:
    with AgentClient(serve(devices=Sensors(code))) as client:  # type: ignore[abstract]
        with pytest.raises(error) as caught:
            list(client.watch_telemetry(5.0))
        assert "\n" not in str(caught.value)
