"""Rows of the store's tables as records."""

from __future__ import annotations

import json
from dataclasses import replace

from backbench.controller.store.records import RunRecord
from backbench.controller.store.tables import RunRow
from backbench.domain.run import RunState
from backbench.wire.device import device_from_bytes
from backbench.wire.run import spec_from_bytes


def run_record(row: RunRow) -> RunRecord:
    """The run; its specification, device and document are parsed."""
    record = RunRecord(
        row.run_id,
        row.device_name,
        None if row.device is None else device_from_bytes(row.device),
        spec_from_bytes(row.spec),
        RunState(row.state),
        tuple(json.loads(row.budgets)),
        row.created_unix_ns,
        row.finished_unix_ns,
        group=row.group,
        model_facts=None if row.model_facts is None else json.loads(row.model_facts),
    )
    return replace(record, document=json.loads(row.document)) if row.document else record
