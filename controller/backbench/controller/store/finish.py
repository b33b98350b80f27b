"""From a run's events to its files and its document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet

from backbench.controller.report.document import build
from backbench.controller.store.columns import frame_table, masked_columns, telemetry_table
from backbench.controller.store.files import write_whole
from backbench.controller.store.records import RunRecord
from backbench.domain.event import LaunchReport, LogLine, RunEvent, RunResult
from backbench.domain.frame import FrameBlock
from backbench.domain.telemetry import TelemetryBlock


def finished_document(
    record: RunRecord, events: Iterable[RunEvent], folder: Path, noise: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write `frames.parquet` and `telemetry.parquet` and give the document. The same events give the same files.

    `noise` is the device's newest `backbench.noise/1` document.
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
    tables = {"frames": frame_table(frames), "telemetry": telemetry_table(telemetry)}
    files = {}
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        write_whole(path, lambda part, table=table: pyarrow.parquet.write_table(table, part, compression="zstd"))  # type: ignore[misc]
        files[name] = str(path)
    return build(record, result, launches, masked_columns(tables["frames"]), telemetry, files, noise, log)
