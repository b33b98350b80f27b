"""Frame and telemetry blocks to packed columns and back: None has no place in a packed array."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from backbench.domain.errors import JournalCorrupt
from backbench.domain.frame import NULLABLE_COLUMNS, FrameBlock
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn
from backbench.v1 import frame_pb2, telemetry_pb2
from backbench.wire.mapping import from_message, to_message

_NOT_REACHED = -1
_COLUMNS = tuple(f.name for f in fields(FrameBlock) if f.name not in ("launch", "stream"))


def frames_to_pb(block: FrameBlock) -> frame_pb2.FrameBlock:
    """A block with -1 where a frame did not get that far."""
    packed: dict[str, Any] = {
        name: tuple(_NOT_REACHED if value is None else value for value in column)
        for name in NULLABLE_COLUMNS
        if None in (column := getattr(block, name))
    }
    return to_message(replace(block, **packed) if packed else block, frame_pb2.FrameBlock())


def frames_from_pb(message: frame_pb2.FrameBlock) -> FrameBlock:
    """A block with None where a frame did not get that far. Raises JournalCorrupt for columns of different lengths."""
    block = from_message(message, FrameBlock)
    rows = len(block.index)
    for name in _COLUMNS:
        if len(getattr(block, name)) not in (0, rows):
            raise JournalCorrupt(
                f"launch {block.launch}: {len(getattr(block, name))} values of {name} for {rows} frames"
            )
    unpacked: dict[str, Any] = {
        name: tuple(None if value == _NOT_REACHED else value for value in column)
        for name in NULLABLE_COLUMNS
        if _NOT_REACHED in (column := getattr(block, name))
    }
    return replace(block, **unpacked) if unpacked else block


def telemetry_to_pb(block: TelemetryBlock) -> telemetry_pb2.TelemetryBlock:
    """A block whose unread places are listed beside the values."""
    message = telemetry_pb2.TelemetryBlock(time_ns=block.time_ns)
    for column in block.columns:
        message.columns.add(
            channel=column.channel,
            unit=column.unit,
            values=[value or 0 for value in column.values],
            unread=[place for place, value in enumerate(column.values) if value is None],
        )
    return message


def telemetry_from_pb(message: telemetry_pb2.TelemetryBlock) -> TelemetryBlock:
    """A block with None at the unread places. Raises JournalCorrupt for columns of different lengths."""
    columns = []
    rows = len(message.time_ns)
    for column in message.columns:
        if len(column.values) != rows:
            raise JournalCorrupt(f"{len(column.values)} values of {column.channel} for {rows} samples")
        unread = set(column.unread)
        values = tuple(None if place in unread else value for place, value in enumerate(column.values))
        columns.append(TelemetryColumn(column.channel, column.unit, values))
    return TelemetryBlock(tuple(message.time_ns), tuple(columns))
