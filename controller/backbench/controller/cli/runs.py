"""Finished runs as an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backbench.controller.cli.output import print_answer, print_json

if TYPE_CHECKING:
    from backbench.controller.store import RunRecord


def documents_of(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The runs' documents. Raises RunNotFinished for one that has none yet."""
    from backbench.domain.errors import RunNotFinished

    documents = []
    for record in records:
        if record.document is None:
            raise RunNotFinished(
                f"run {record.run_id} has no result here yet (it is {record.state.value}): backbench run follow"
                f" {record.run_id}"
            )
        documents.append(record.document)
    return documents


def print_runs(documents: Sequence[Mapping[str, Any]], *, json: bool, several: bool) -> None:
    """One document, or tables: each run's own and, for several, a comparison."""
    from backbench.controller.report.document import runs_document
    from backbench.controller.report.text import comparison, run_summary

    if json:
        print_json(runs_document(list(documents)) if several else documents[0])
        return
    for document in documents:
        print_answer(run_summary(document))
    if len(documents) > 1:
        print_answer(comparison(documents))


def list_document(records: Sequence[RunRecord]) -> dict[str, Any]:
    """What is known of every run, briefly."""
    return {
        "schema": "backbench.run-list/1",
        "runs": [
            {
                "run_id": record.run_id,
                "state": record.state.value,
                "device": record.device_name,
                "model": record.spec.model.name,
                "size": [record.spec.height, record.spec.width],
                "created_unix_ns": record.created_unix_ns,
                "finished_unix_ns": record.finished_unix_ns,
                "group": record.group,
                "verdict": None if record.document is None else record.document["verdict"],
            }
            for record in records
        ],
    }
