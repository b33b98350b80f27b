"""`backbench export`: a backbone as an ONNX file, with what has to be known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backbench.controller.cli.options import Json
from backbench.controller.cli.output import print_answer, print_json

Name = Annotated[str, typer.Argument(metavar="NAME", help="A timm name, or NAME.TAG (see backbench models).")]
Size = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Input size: 224 or HEIGHTxWIDTH; default: the backbone's own.")
]
Batch = Annotated[int, typer.Option(metavar="N", help="Images in one inference.")]
Weights = Annotated[
    str, typer.Option(metavar="WHICH", help="pretrained, random, or the path of a .safetensors or torch checkpoint.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="What random weights are drawn from.")]
Features = Annotated[bool, typer.Option("--features", help="The feature maps of every level instead of the logits.")]
Precision = Annotated[str, typer.Option(metavar="NAME", help="fp32, fp16 or int8.")]
Target = Annotated[
    str | None, typer.Option("--for", metavar="TARGET", help="What int8 is laid out for: cpu (default) or tensorrt.")
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Images that int8 is calibrated and judged with; default: the shipped photographs."
    ),
]
Opset = Annotated[int, typer.Option(metavar="N", help="ONNX opset, 17 to 23; 17 for TensorRT 8.")]
Dynamic = Annotated[list[str] | None, typer.Option(metavar="WHAT", help="Leave batch or size open; repeatable.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="The .onnx file; default: named for what it is.")
]


def export(  # noqa: PLR0913, PLR0917
    name: Name,
    size: Size = None,
    batch: Batch = 1,
    weights: Weights = "pretrained",
    seed: Seed = 0,
    features: Features = False,
    precision: Precision = "fp32",
    target: Target = None,
    calibration: Calibration = None,
    opset: Opset = 20,
    dynamic: Dynamic = None,
    output: Output = None,
    json: Json = False,
) -> int:
    """Export a backbone with torch, compare it with torch, and keep what it is beside it.

    backbench export convnext_tiny --size 448 --weights random --features -o convnext.onnx
    """
    from backbench.controller.cli.progress import shown
    from backbench.controller.operations.export import ExportCommand, export_backbone
    from backbench.controller.report.export import export_summary

    command = ExportCommand(
        name, size, batch, weights, seed, features, precision, target, calibration, opset, tuple(dynamic or ()), output
    )
    with shown() as observer:
        exported = export_backbone(command, observer.step)
    if json:
        print_json({**exported.manifest, "path": str(exported.files.model)})
    else:
        print_answer(export_summary(exported))
    return 0
