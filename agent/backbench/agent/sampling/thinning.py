"""Fewer samples than were read, for somebody who asked for fewer."""

from __future__ import annotations

from dataclasses import replace

from backbench.domain.telemetry import TelemetryBlock


class Thinning:
    """Leaves so many samples a second of each source, at most."""

    def __init__(self, rate_hz: float) -> None:
        # A little less than the period: the sampler's own times have some play.
        self._least_ns = 0.9e9 / rate_hz
        self._last_ns: dict[str, int] = {}

    def __call__(self, block: TelemetryBlock) -> TelemetryBlock | None:
        """What is left of a block; None for nothing."""
        source = block.columns[-1].channel
        last_ns = self._last_ns.get(source)
        kept = []
        for place, time_ns in enumerate(block.time_ns):
            if last_ns is None or time_ns - last_ns >= self._least_ns:
                kept.append(place)
                last_ns = time_ns
        if last_ns is not None:
            self._last_ns[source] = last_ns
        if len(kept) == len(block.time_ns):
            return block
        columns = (replace(column, values=tuple(column.values[place] for place in kept)) for column in block.columns)
        return TelemetryBlock(tuple(block.time_ns[place] for place in kept), tuple(columns)) if kept else None
