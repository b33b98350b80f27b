"""`backbench profile`: models on a device, followed to the end, judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbench.controller.cli.options import DeviceName, Insecure, Json, Strict, open_store

if TYPE_CHECKING:
    from backbench.controller.operations.plan import ProfileRequest


Models = Annotated[
    list[str], typer.Argument(metavar="MODEL", help="A backbone (see backbench models) or an .onnx file.")
]
Size = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Input size: 224 or HEIGHTxWIDTH; default: the model's own.")
]
Batch = Annotated[int, typer.Option(metavar="N", help="Images in one inference.")]
Frames = Annotated[int, typer.Option(metavar="N", help="Timed frames.")]
Warmup = Annotated[int, typer.Option(metavar="N", help="Frames before them.")]
Inputs = Annotated[
    Path | None, typer.Option(metavar="PATH", help="An image or a folder of images; default: synthetic images.")
]
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="BUDGET", help='A limit such as "p99<=30ms" or "memory<=256MB"; repeatable.'),
]
BackendName = Annotated[str, typer.Option(metavar="NAME", help="What executes the model.")]
Threads = Annotated[
    int | None, typer.Option(metavar="N", help="Threads within an operator; default: the device chooses.")
]
Spin = Annotated[bool, typer.Option("--spin/--no-spin", help="Whether waiting threads spin.")]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="WHICH",
        help="pretrained, random or a checkpoint: export with torch first; default: the backbone's skeleton.",
    ),
]
Precision = Annotated[
    str, typer.Option(metavar="NAME", help="fp32, fp16 or int8: convert first; default: as the model is.")
]
Target = Annotated[
    str | None,
    typer.Option("--for", metavar="TARGET", help="What int8 is laid out for: cpu or tensorrt; default: the backend."),
]
Calibration = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Images to calibrate int8 with; default: the shipped photographs.")
]
TelemetryRate = Annotated[float, typer.Option(metavar="HZ", help="Telemetry samples a second, 0 to 10; 0 for none.")]
MemoryPass = Annotated[
    bool, typer.Option(" /--no-memory-pass", show_default=False, help="Leave out the pass that measures memory.")
]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="Longest time for one run.")]
Name = Annotated[str, typer.Option(metavar="TEXT", help="A name kept with the runs.")]


def profile(  # noqa: PLR0913, PLR0917
    context: typer.Context,
    models: Models,
    device: DeviceName,
    size: Size = None,
    batch: Batch = 1,
    frames: Frames = 1000,
    warmup: Warmup = 20,
    inputs: Inputs = None,
    budgets: Budgets = None,
    backend: BackendName = "onnxruntime",
    threads: Threads = None,
    spin: Spin = True,
    weights: Weights = None,
    precision: Precision = "as-model",
    target: Target = None,
    calibration: Calibration = None,
    telemetry_rate: TelemetryRate = 2.0,
    memory_pass: MemoryPass = True,
    timeout: Timeout = 3600.0,
    name: Name = "",
    insecure: Insecure = False,
    strict: Strict = False,
    json: Json = False,
) -> int:
    """Measure models on a device and judge them by their budgets.

    backbench profile resnet50 --device orin --size 224 --budget "p99<=30ms"
    """
    from backbench.controller.operations.plan import ProfileRequest

    request = ProfileRequest(
        models=tuple(models),
        device=device,
        size=size,
        batch=batch,
        frames=frames,
        warmup=warmup,
        inputs=inputs,
        budgets=tuple(budgets or ()),
        backend=backend,
        threads=threads,
        spin=spin,
        precision=precision,
        weights=weights,
        target=target,
        calibration=calibration,
        telemetry_rate_hz=telemetry_rate,
        memory_pass=memory_pass,
        timeout_s=timeout,
        name=name,
    )
    return _profile(context, request, insecure=insecure, strict=strict, json=json)


def _profile(context: typer.Context, request: ProfileRequest, *, insecure: bool, strict: bool, json: bool) -> int:
    from backbench.controller.cli.interrupts import interrupts
    from backbench.controller.cli.progress import shown
    from backbench.controller.cli.runs import documents_of, print_runs
    from backbench.controller.cli.verdict import INTERRUPTED, status_of
    from backbench.controller.operations import profile
    from backbench.controller.operations.plan import plan_profile
    from backbench.controller.operations.stop import Stop

    store = open_store(context)
    plan = plan_profile(request)
    stop = Stop()
    with interrupts(stop), shown() as observer:
        records = profile.profile(store, plan, observer, stop, insecure)
    documents = documents_of(records)
    print_runs(documents, json=json, several=len(plan.models) > 1)
    return INTERRUPTED if stop.requested else status_of(documents, strict)
