"""Waits for a device to cool down before a launch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from backbench.agent.sampling.hub import Telemetry
from backbench.agent.sampling.lines import Plan
from backbench.agent.supervisor import Stopped
from backbench.domain.event import CoolGate
from backbench.domain.telemetry import TelemetryBlock, hottest

STAGE = "cooling"
RATE_HZ = 1.0
_TICK_S = 0.2


class Thermometer:
    """The newest reading of every temperature among the samples that pass by."""

    def __init__(self) -> None:
        self._newest: dict[str, int | None] = {}

    def take(self, block: TelemetryBlock) -> None:
        """Look at some samples."""
        self._newest.update({column.channel: column.values[-1] for column in block.columns if column.values})

    @property
    def hottest_mc(self) -> int | None:
        """What the device throttles by, in thousandths of a degree; None where no temperature can be read now."""
        return hottest(self._newest)


async def wait_cool(
    telemetry: Telemetry,
    extra: tuple[str, ...],
    limit_mc: int,
    longest_ns: int,
    stop: asyncio.Event,
    show: Callable[[int | None], object],
    complain: Callable[[str], object],
) -> CoolGate:
    """Wait until the hottest place is below a limit, or for so long; `show` gets its temperature as it changes.

    Little is read meanwhile; sources in `extra` stay open for the launch. Raises Stopped.
    """
    thermometer = Thermometer()
    begun_ns = time.perf_counter_ns()
    start_mc: int | None = None
    shown: int | None = None
    async with telemetry.sampled(Plan(RATE_HZ, extra), thermometer.take, complain):
        while True:
            now_mc, waited_ns = thermometer.hottest_mc, time.perf_counter_ns() - begun_ns
            start_mc = now_mc if start_mc is None else start_mc
            if now_mc != shown:
                shown = now_mc
                show(now_mc)
            cool = now_mc is not None and now_mc < limit_mc
            if cool or waited_ns >= longest_ns:
                return CoolGate(limit_mc, start_mc, now_mc, waited_ns, cool)
            if stop.is_set():
                raise Stopped
            await asyncio.sleep(_TICK_S)
