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
