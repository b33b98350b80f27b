"""Frames, telemetry and layers as Arrow tables, and frames as the columns that analysis takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa

from backbench.domain.event import Layer
from backbench.domain.frame import NULLABLE_COLUMNS, FrameBlock
from backbench.domain.telemetry import TelemetryBlock

_NAMES = tuple(field.name for field in fields(FrameBlock))
FRAME_SCHEMA = pa.schema([pa.field(name, pa.int64(), nullable=name in NULLABLE_COLUMNS) for name in _NAMES])
TELEMETRY_SCHEMA = pa.schema(
    [("time_ns", pa.int64()), ("channel", pa.string()), ("unit", pa.string()), ("value", pa.int64())]
)
LAYER_SCHEMA = pa.schema(
    [
        ("index", pa.int64()), ("name", pa.string()), ("operator", pa.string()), ("provider", pa.string()),
        ("mean_ns", pa.int64()), ("call_count", pa.int64()),
    ]
)  # fmt: skip


def frame_table(blocks: Iterable[FrameBlock]) -> pa.Table:
    """All rows of the blocks; a column that was not measured is null."""
    return pa.Table.from_batches([_frame_batch(block) for block in blocks], FRAME_SCHEMA)


def telemetry_table(blocks: Iterable[TelemetryBlock]) -> pa.Table:
    """One row a sample and channel; null where it could not be read."""
    batches = [
        pa.record_batch(
            [
                pa.array(block.time_ns, pa.int64()),
                pa.array([column.channel] * len(block.time_ns), pa.string()),
                pa.array([column.unit] * len(block.time_ns), pa.string()),
                pa.array(column.values, pa.int64()),
            ],
            schema=TELEMETRY_SCHEMA,
        )
        for block in blocks
        for column in block.columns
    ]
    return pa.Table.from_batches(batches, TELEMETRY_SCHEMA)


def layer_table(layers: Iterable[Layer]) -> pa.Table:
    """One row a layer, in the order of execution."""
    rows = [{"index": index, **asdict(layer)} for index, layer in enumerate(layers)]
    return pa.Table.from_pylist(rows, LAYER_SCHEMA)


def masked_columns(table: pa.Table) -> dict[str, np.ma.MaskedArray[Any, np.dtype[np.int64]]]:
    """Every integer column as int64, masked where it is null."""
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks() if table.num_rows else pa.array([], pa.int64())
        mask = column.is_null().to_numpy(zero_copy_only=False)
        columns[name] = np.ma.MaskedArray(column.fill_null(0).to_numpy(zero_copy_only=False), mask=mask, dtype=np.int64)
    return columns


def _frame_batch(block: FrameBlock) -> pa.RecordBatch:
    rows = len(block.index)
    arrays = []
    for name in _NAMES:
        value = getattr(block, name)
        if isinstance(value, int):
            arrays.append(pa.array(np.full(rows, value, np.int64)))
        else:
            arrays.append(pa.array(value, pa.int64()) if value else pa.nulls(rows, pa.int64()))
    return pa.record_batch(arrays, schema=FRAME_SCHEMA)
