"""`backbench inspect`: what a model costs and what it sees, without running it."""

from __future__ import annotations

from typing import Annotated

import typer

from backbench.controller.cli.options import Json, open_store
from backbench.controller.cli.output import print_answer, print_json

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A backbone (see backbench models) or an .onnx file.")]
Size = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Input size: 224 or HEIGHTxWIDTH; default: the model's own.")
]
Batch = Annotated[int, typer.Option(metavar="N", help="Images in one inference.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Add lower bounds of time from its measured peak rates.")
]
Layers = Annotated[bool, typer.Option("--layers", help="List the costliest operators; --json has all in any case.")]


def inspect(
    context: typer.Context,
    model: Model,
    size: Size = None,
    batch: Batch = 1,
    device: Device = None,
    layers: Layers = False,
    json: Json = False,
) -> int:
    """What a model costs and what it sees: parameters, multiply-adds, memory, receptive fields, outputs.

    backbench inspect mobilenetv3_large_100 --size 320 --layers
    """
    from backbench.controller.operations.inspect import InspectRequest, inspect_model
    from backbench.controller.report.graph import inspection_summary, operator_table

    store = open_store(context) if device is not None else None
    inspection = inspect_model(InspectRequest(model, size, batch, device), store)
    document = inspection.document()
    if json:
        print_json(document)
        return 0
    print_answer(inspection_summary(document))
    if layers:
        print_answer(operator_table(document))
    return 0
