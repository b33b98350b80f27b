"""From a run's events to its files and its document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from backbench.controller.report.document import build
from backbench.controller.report.engine import layers_report
from backbench.controller.report.observed import tags_of
from backbench.controller.store.columns import frame_table, layer_table, masked_columns, telemetry_table
from backbench.controller.store.files import write_whole
from backbench.controller.store.records import RunRecord
from backbench.domain.event import LaunchReport, LogLine, RunEvent, RunResult
from backbench.domain.frame import FrameBlock
from backbench.domain.telemetry import TelemetryBlock


def finished_document(
    record: RunRecord, events: Iterable[RunEvent], folder: Path, noise: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write `frames.parquet`, `telemetry.parquet` and, where there are any, `layers.parquet`; give the document.

    The same events give the same files.

    The frames have a column `throttled` besides those that came: 1 where the device may have held its clocks back, 0
    where a witness saw that it did not, null where nothing looked. `noise` is the device's newest `backbench.noise/1`
    document.
    """
    frames: list[FrameBlock] = []
    telemetry: list[TelemetryBlock] = []
    launches: list[LaunchReport] = []
    log: list[LogLine] = []
    result: RunResult | None = None
    for event in events:
        match event.event:
            case FrameBlock() as block:
                frames.append(block)
            case TelemetryBlock() as block:
                telemetry.append(block)
            case LaunchReport() as launch:
                launches.append(launch)
            case LogLine() as line:
                log.append(line)
            case RunResult() as ended:
                result = ended
    if result is None:
        raise ValueError("the events hold no result")
    rows = frame_table(frames)
    columns = masked_columns(rows)
    tags = tags_of(columns, telemetry, record.device)
    tables = {
        "frames": rows.append_column("throttled", pa.array(tags.data, pa.int64(), mask=np.ma.getmaskarray(tags))),
        "telemetry": telemetry_table(telemetry),
    }
    layers = layers_report(launches)
    if layers is not None:
        tables["layers"] = layer_table(layers.layers)
    files: dict[str, str | None] = {"frames": None, "telemetry": None, "layers": None}
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        write_whole(path, lambda part, table=table: pyarrow.parquet.write_table(table, part, compression="zstd"))  # type: ignore[misc]
        files[name] = str(path)
    return build(record, result, launches, columns, telemetry, files, noise, log)
