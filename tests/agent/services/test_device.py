"""DeviceService: what a watch of telemetry may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backbench.agent.sampling.hub import Telemetry
from backbench.agent.services.device import DeviceService
from backbench.domain.errors import InvalidArgument
from backbench.v1 import device_pb2 as pb

NOBODY: Any = None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rate_hz": 0.05}, "rate_hz is 0.05; it must lie between 0.1 and 10"),
        ({"rate_hz": 11.0}, "rate_hz is 11"),
        ({"rate_hz": float("nan")}, "rate_hz is nan"),
        ({"extra_sources": ["lidar"]}, 'no sensor "lidar" to ask for; there are pmic, tegrastats, jtop'),
    ],
)
async def test_a_watch_that_cannot_be_is_refused_by_name_and_range(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    service = DeviceService(NOBODY, Telemetry(folders=tmp_path), NOBODY)
    with pytest.raises(InvalidArgument, match=words):
        await anext(aiter(service.WatchTelemetry(pb.WatchTelemetryRequest(**fields), NOBODY)))
