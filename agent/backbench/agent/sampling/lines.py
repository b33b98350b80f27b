"""What the sampler process and the agent tell each other: one JSON document a line.

To the sampler: {"plan": {"rate_hz", "extra", "number"}}, {"flush": number}, {"begin": pid}, {"end": pid},
{"epoch": ns}, {"pin": processor or null}. From it: {"block": ...}, {"log": text}, {"answered": number}, which follows
everything that was read until then.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backbench.domain.device import SensorChannel, SensorSource
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn


@dataclass(frozen=True, slots=True)
class Plan:
    """How often to read at most, and what besides the sources that always are; a rate of 0 reads nothing."""

    rate_hz: float = 0.0
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """Every source that the agent knows and every channel that one of them offers here.

    `extra_channels` are those of sources that are read only where they are asked for.
    """

    sources: tuple[SensorSource, ...] = ()
    channels: tuple[SensorChannel, ...] = ()
    extra_channels: tuple[SensorChannel, ...] = ()

    def lacking(self, names: Sequence[str]) -> list[SensorSource]:
        """Those of these sources that cannot be read here."""
        return [source for source in self.sources if source.name in names and source.state in ("absent", "denied")]

    def offers(self, prefix: str) -> bool:
        """Whether a channel that can be read has a name with this beginning."""
        return any(channel.available and channel.name.startswith(prefix) for channel in self.channels)


def to_line(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def block_fields(block: TelemetryBlock) -> list[Any]:
    """A block as JSON takes it."""
    return [block.time_ns, [(column.channel, column.unit, column.values) for column in block.columns]]


def block_from_fields(fields: list[Any]) -> TelemetryBlock:
    """A block from JSON."""
    times, columns = fields
    return TelemetryBlock(
        tuple(times), tuple(TelemetryColumn(channel, unit, tuple(values)) for channel, unit, values in columns)
    )


def survey_to_line(survey: Survey) -> bytes:
    """A survey as one line."""
    return to_line(dataclasses.asdict(survey))


def survey_from_line(line: bytes) -> Survey:
    """A survey from its line. Raises ValueError, KeyError or TypeError for another text."""
    fields = json.loads(line)
    return Survey(
        tuple(SensorSource(**each) for each in fields["sources"]),
        tuple(SensorChannel(**each) for each in fields["channels"]),
        tuple(SensorChannel(**each) for each in fields["extra_channels"]),
    )
