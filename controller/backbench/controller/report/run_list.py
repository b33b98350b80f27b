"""Runs as a list: what this store knows of each, and what its device says of it now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from backbench.controller.report.words import NONE, judgement, outputs_wrong, table_of, word
from backbench.domain.run import BackendSpec

if TYPE_CHECKING:
    from backbench.controller.operations.collect import Collected
    from backbench.controller.operations.device_runs import DeviceRun, DeviceRuns
    from backbench.controller.store.records import RunRecord
    from backbench.domain.run import RunSpec

_HINTS = 5


def run_rows(records: Iterable[RunRecord], answers: Iterable[DeviceRuns], limit: int) -> list[dict[str, Any]]:
    """A row a run, newest first: the store's, and those that only devices know."""
    on_devices = {each.run.spec.run_id: each for answer in answers for each in answer.runs}
    rows = [_row_of_record(record, on_devices.pop(record.run_id, None)) for record in records]
    rows += [_row_of_device(each) for each in on_devices.values()]
    return sorted(rows, key=lambda row: (row["created_unix_ns"], row["run_id"]), reverse=True)[:limit]


def run_list_document(rows: Sequence[Mapping[str, Any]], answers: Iterable[DeviceRuns]) -> dict[str, Any]:
    """`backbench.run-list/1`."""
    devices = [
        {"name": answer.name, "error": None if answer.error is None else answer.error.message} for answer in answers
    ]
    return {"schema": "backbench.run-list/1", "runs": list(rows), "devices": devices}


def run_table(rows: Iterable[Mapping[str, Any]], *, asked: bool) -> RenderableType:
    """The rows; `asked` when devices were, with what they said."""
    more = ("owner", "here") if asked else ("size",)
    table = table_of("run", "created", "device", "model", *more, "state", "verdict", left=8)
    for row in rows:
        created = datetime.fromtimestamp(row["created_unix_ns"] / 1e9).astimezone()
        cells = (_owner(row), _here(row)) if asked else ("x".join(map(str, row["size"])),)
        table.add_row(
            row["run_id"][-8:],
            created.strftime("%m-%d %H:%M"),
            row["device"],
            _model(row),
            *cells,
            _state(row),
            NONE if row["judgement"] is None else word(row["judgement"]),
        )
    return table


def hints(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What can be done about runs that are not here to their end."""
    unfinished = [row for row in rows if not row["finished_here"] and row["known_here"]]
    lines = [f"not finished here: backbench run follow {row['run_id'][-8:]}" for row in unfinished[:_HINTS]]
    if len(unfinished) > _HINTS:
        lines.append(f"and {len(unfinished) - _HINTS} more")
    ended = {row["device"] for row in rows if _to_collect(row)}
    return [*lines, *(f"finished there, not fetched: backbench run collect --device {name}" for name in sorted(ended))]


def collected_document(collected: Iterable[Collected]) -> dict[str, Any]:
    """`backbench.collected/1`."""
    return {
        "schema": "backbench.collected/1",
        "runs": [_fetched(record) for each in collected for record in each.records],
        "devices": [
            {
                "name": each.device,
                "fetched": len(each.records),
                "of_others": each.of_others,
                "going_on": each.going_on,
                "left_out": each.left_out,
                "error": None if each.error is None else each.error.message,
            }
            for each in collected
        ],
    }


def collected_table(collected: Iterable[Collected]) -> RenderableType:
    """What was fetched, a row a run."""
    table = table_of("run", "device", "model", "state", "verdict", "frames", left=5)
    for each in collected:
        for record in each.records:
            row = _fetched(record)
            frames = str(row["frames"]["completed"])
            verdict = NONE if row["judgement"] is None else word(row["judgement"])
            table.add_row(record.run_id[-8:], each.device, _model(row), word(row["state"]), verdict, frames)
    return table


def _fetched(record: RunRecord) -> dict[str, Any]:
    document = record.document or {}
    row = _row_of_record(record, None)
    wanted = ("run_id", "device", "model", "backend", "size", "state", "verdict", "judgement")
    return {**{name: row[name] for name in wanted}, "outcome": document["outcome"], "frames": document["frames"]}


def _row_of_record(record: RunRecord, on_device: DeviceRun | None) -> dict[str, Any]:
    document = record.document
    return {
        **_of_spec(record.spec),
        "state": record.state.value,
        "device": record.device_name,
        "created_unix_ns": record.created_unix_ns,
        "finished_unix_ns": record.finished_unix_ns,
        "group": record.group,
        "verdict": None if document is None else document["verdict"],
        "judgement": _judgement(document),
        "known_here": True,
        "finished_here": document is not None,
        "on_device": None if on_device is None else _on_device(on_device),
    }


def _row_of_device(each: DeviceRun) -> dict[str, Any]:
    return {
        **_of_spec(each.run.spec),
        "state": each.run.state.value,
        "device": each.device,
        "created_unix_ns": each.run.created_unix_ns,
        "finished_unix_ns": each.run.finished_unix_ns,
        "group": "",
        "verdict": None,
        "judgement": None,
        "known_here": each.here is not None,
        "finished_here": bool(each.here),
        "on_device": _on_device(each),
    }


def _of_spec(spec: RunSpec) -> dict[str, Any]:
    return {
        "run_id": spec.run_id,
        "model": spec.model.name,
        "backend": spec.backend.name,
        "size": [spec.height, spec.width],
    }


def _model(row: Mapping[str, Any]) -> str:
    """The model, and what executed it where that is not the usual one."""
    backend = row["backend"]
    return str(row["model"]) if backend == BackendSpec().name else f"{row['model']} ({backend})"


def _on_device(each: DeviceRun) -> dict[str, Any]:
    run = each.run
    return {
        "state": run.state.value,
        "owner": run.owner.name if run.owner else None,
        "fleet_id": run.owner.fleet_id if run.owner else None,
        "mine": each.mine,
        "queue_position": run.queue_position,
        "collected": run.collected,
    }


def _judgement(document: Mapping[str, Any] | None) -> str | None:
    """The verdict, or that there can be none; None where nothing was asked."""
    judged = document is not None and (document["verdict"] or outputs_wrong(document))
    return judgement(document) if document is not None and judged else None


def _state(row: Mapping[str, Any]) -> RenderableType:
    there = row["on_device"]
    if there is None or row["finished_here"]:
        return word(row["state"])
    before = f", {there['queue_position']} before" if there["queue_position"] else ""
    return word(there["state"]).append(before)


def _owner(row: Mapping[str, Any]) -> str:
    there = row["on_device"]
    return NONE if there is None else "me" if there["mine"] else there["owner"] or "somebody"


def _here(row: Mapping[str, Any]) -> str:
    return "yes" if row["finished_here"] else "not yet" if row["known_here"] else "no"


def _to_collect(row: Mapping[str, Any]) -> bool:
    there = row["on_device"]
    ended = there is not None and there["state"] in ("done", "failed", "cancelled", "interrupted")
    return ended and there["mine"] and not row["finished_here"]
