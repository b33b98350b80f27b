"""`backbench compare`: runs beside each other, with a verdict only where their environments are the same."""

from __future__ import annotations

from typing import Annotated

import typer

from backbench.controller.cli.options import Json, open_store
from backbench.controller.cli.output import print_answer, print_json


def compare(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Two or more; ratios are to the first.")],
    across: Annotated[
        bool, typer.Option("--across", help="Give a verdict and end with 0 where environments differ, too.")
    ] = False,
    json: Json = False,
) -> int:
    """Show runs, their ratios and a verdict. Ends with 1 where their environments differ, unless --across.

    A simulated device never compares with a real one.
    """
    from backbench.controller.cli.runs import documents_of
    from backbench.controller.cli.verdict import FINE, NO
    from backbench.controller.operations.comparing import compare_runs
    from backbench.controller.report.text import ratios
    from backbench.domain.errors import InvalidArgument

    if len(runs) < 2:
        raise InvalidArgument("compare needs two runs or more; see backbench run list")
    store = open_store(context)
    documents = documents_of([store.run(run) for run in runs])
    result = compare_runs(store, documents, across)
    if json:
        ids = [document["run_id"] for document in documents]
        print_json({"schema": "backbench.comparison/1", "runs": ids, **result})
    else:
        print_answer(ratios(result, documents))
    return FINE if result["comparable"] or (across and not result["simulation_differs"]) else NO
