"""`backbench layers`: what each layer of a run's model takes, slowest first."""

from __future__ import annotations

from typing import Annotated

import typer

from backbench.controller.cli.options import Json, RunId, open_store
from backbench.controller.cli.output import print_answer, print_json


def layers(
    context: typer.Context,
    run: RunId,
    top: Annotated[int | None, typer.Option("--top", metavar="N", help="The slowest N alone; default: all.")] = None,
    json: Json = False,
) -> int:
    """Show a run's layers with their times, slowest first, and what ran each.

    The run must have been made with --layers: backbench profile resnet50 --device orin --layers
    """
    from backbench.controller.cli.runs import documents_of
    from backbench.controller.operations.ranges import within
    from backbench.controller.report.layers import check_layers, layers_answer, layers_table

    within("--top", 1 if top is None else top, 1, 1_000_000)
    store = open_store(context)
    (document,) = documents_of([store.run(run)])
    check_layers(document)
    answer = layers_answer(document, store.layers(document["run_id"]), top)
    if json:
        print_json(answer)
    else:
        print_answer(layers_table(answer))
    return 0
