"""`backbench noise`: how much a device's times differ where nothing differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from backbench.controller.cli.options import DeviceName, Insecure, Json, NoWait, open_store
from backbench.controller.cli.output import print_json, print_line


def noise(
    context: typer.Context,
    device: DeviceName,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="What is compared with itself: a backbone or an .onnx file.")
    ] = "mobilenetv3_small_100",
    launches: Annotated[int, typer.Option(metavar="R", help="Launches of each of the four runs, 2 to 100.")] = 6,
    frames: Annotated[int, typer.Option(metavar="N", help="Timed frames of a launch.")] = 500,
    no_wait: NoWait = False,
    insecure: Insecure = False,
    json: Json = False,
) -> int:
    """Measure the noise floor of a device: one model twice, launches in turns, then with and without telemetry.

    A difference between two models that is smaller than this says nothing. The newest result is kept.
    """
    from backbench.controller.cli.interrupts import interrupts
    from backbench.controller.cli.progress import shown
    from backbench.controller.cli.verdict import FINE, INTERRUPTED
    from backbench.controller.operations.noise import NoiseRequest, measure_noise, plan_noise
    from backbench.controller.operations.stop import Stop

    store = open_store(context)
    plan = plan_noise(NoiseRequest(device, model, launches, frames))
    stop = Stop()
    with interrupts(stop), shown() as observer:
        document = measure_noise(store, plan, observer, stop, insecure, wait=not no_wait)
    if document is None:
        return INTERRUPTED
    if json:
        print_json(document)
    else:
        for line in _lines(document):
            print_line(line)
    return FINE


def _lines(document: Mapping[str, Any]) -> list[str]:
    same, telemetry, loop = document["same"], document["telemetry"], document["loop"]
    size = "x".join(str(side) for side in document["model"]["size"])
    what = f"{document['model']['name']} {size}, {document['launches']} launches of {document['frames']} frames"
    cost = "more than noise" if telemetry["flagged"] else "no more than noise"
    inside, between = _microseconds(loop["overhead_p50_ns"]), _microseconds(loop["period_p50_ns"])
    rows = {
        "same again": f"p50 times {same['ratio']:.4f} in the second of two equal runs ({what})",
        "launches": f"p50 up to {_percent(same['spread'])} apart within a run",
        "telemetry": f"p50 {telemetry['difference'] * 100:+.2f} % at {telemetry['rate_hz']:g} samples a second: {cost}",
        "loop": f"{inside} within a frame's time, {between} from frame to frame",
    }
    head = f"noise floor of {document['device']}: {_percent(document['noise_floor'])}"
    return [head, *(f"  {name:<10}  {text}" for name, text in rows.items())]


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.2f} %"


def _microseconds(length_ns: int | None) -> str:
    return "not told" if length_ns is None else f"{length_ns / 1e3:.1f} µs"
