"""The options of `backbench profile`, in the groups in which its help shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _model(metavar: str, text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel="What is run")


def _arrivals(metavar: str, text: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel="How frames arrive")


def _measured(metavar: str | None, text: str, *names: str, show_default: bool = True) -> Any:
    panel = "What is measured and judged"
    return typer.Option(*names, metavar=metavar, help=text, show_default=show_default, rich_help_panel=panel)


_PREPARED = "How the device is prepared"


def _prepared(metavar: str, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text, rich_help_panel=_PREPARED)


Models = Annotated[
    list[str], typer.Argument(metavar="MODEL", help="A backbone (see backbench models) or an .onnx file.")
]
Size = Annotated[str | None, _model("SIZE", "Input size: 224 or HEIGHTxWIDTH; default: the model's own.")]
Batch = Annotated[int, _model("N", "Images in one inference.")]
Inputs = Annotated[
    Path | None,
    _model(
        "PATH",
        "An image, a folder of them, or synthetic:1080x1920: made-up ones of a camera's size. Each frame decodes and"
        " resizes one; default: seeded tensors, and nothing is preprocessed.",
    ),
]
BackendNames = Annotated[
    list[str] | None,
    _model(
        "NAME",
        "What executes the model: onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, tensorrt or tensorrt-rtx (see"
        " backbench device show); repeatable, then every backend runs every model. Default: onnxruntime.",
        "--backend",
    ),
]
Threads = Annotated[int | None, _model("N", "Threads within an operator; default: the device chooses.")]
Spin = Annotated[
    bool, typer.Option("--spin/--no-spin", help="Whether waiting threads spin.", rich_help_panel="What is run")
]
Weights = Annotated[
    str | None,
    _model("WHICH", "pretrained, random or a checkpoint: export with torch first; default: the backbone's skeleton."),
]
Precision = Annotated[
    str,
    _model(
        "NAME",
        "fp32, fp16, bf16 or int8; a backend that chooses this itself gets the model as it is, for others it is"
        " converted first. Default: as the model is.",
    ),
]
Target = Annotated[
    str | None, _model("TARGET", "What int8 is laid out for: cpu or tensorrt; default: the backend.", "--for")
]
Calibration = Annotated[Path | None, _model("PATH", "Images to calibrate int8 with; default: the shipped photographs.")]
Postprocess = Annotated[str, _model("NAME", "What is done with the outputs, in a frame's time: top-1 or none.")]

_ENGINE = "How a backend makes and runs its engine"
Dla = Annotated[
    int | None,
    typer.Option(
        "--dla",
        metavar="N",
        help="TensorRT on a DLA core; layers that it cannot take run on the GPU and are listed.",
        rich_help_panel=_ENGINE,
    ),
]
CudaGraph = Annotated[
    bool,
    typer.Option("--cuda-graph", help="Record an inference once and replay it each frame.", rich_help_panel=_ENGINE),
]
BackendOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--backend-option",
        metavar="NAME=VALUE",
        help="An option of the backend, such as workspace=2GB or sync=blocking (see backbench device show); repeatable."
        " Of several backends those get it that have it.",
        rich_help_panel=_ENGINE,
    ),
]
AllowFallback = Annotated[
    bool,
    typer.Option(
        "--allow-fallback",
        help="Take a run that another provider than the asked one executed, in part or whole; the result says so."
        " Without it such a run fails.",
        rich_help_panel=_ENGINE,
    ),
]

Scenario = Annotated[
    str,
    _arrivals(
        "NAME",
        "closed-loop (back to back), paced (a camera at --fps), poisson (at random, --fps on average), trace (as in"
        " --trace), offline (as many as possible), streams (--streams engines at once), soak (for minutes, back to back"
        " or at --fps), idle-fire (each after an --idle-gap), sweep (the highest rate that holds).",
    ),
]
Frames = Annotated[
    int | None,
    _arrivals(
        "N",
        "Timed frames of a launch. Default: 1000, which carries a p99; idle-fire: 100, as each waits for a gap; trace:"
        " all in the file; sweep: more for a small --miss-ratio. Of streams and sweep those of each step.",
    ),
]
Warmup = Annotated[int, _arrivals("N", "Frames before them, back to back.")]
Duration = Annotated[
    str | None,
    _arrivals("TIME", 'soak: its length, default 10m; closed-loop and paced: instead of --frames, such as "30s".'),
]
Fps = Annotated[
    float | None,
    _arrivals(
        "N", "Frames that arrive a second: paced, poisson; soak and streams at a rate; sweep: the highest tried."
    ),
]
QueuePolicy = Annotated[
    str | None,
    _arrivals(
        "NAME",
        "When frames wait: latest (a new one replaces the oldest), drop-newest, unbounded (all wait). Default: latest;"
        " poisson and trace: unbounded.",
    ),
]
QueueDepth = Annotated[int | None, _arrivals("N", "Frames that may wait; default: 1.")]
Deadline = Annotated[
    str | None,
    _arrivals("TIME", 'A frame done later than this after its arrival is a miss: "33ms". Default: a constant period.'),
]
Trace = Annotated[Path | None, _arrivals("FILE", "trace: arrivals, one time in nanoseconds a line.")]
Streams = Annotated[int | None, _arrivals("K", "streams: 1, 2, ... up to K engines at once.")]
IdleGap = Annotated[str | None, _arrivals("TIME", "idle-fire: the wait before each frame; default: 1s.")]
MissRatio = Annotated[
    str | None, _arrivals("SHARE", "sweep: a rate holds with this share of misses or fewer; default: 1%.")
]
Seed = Annotated[int | None, _arrivals("N", "Seed of random arrivals and of synthetic images; default: 0.")]

Launches = Annotated[
    int, _measured("R", "Fresh worker processes; several models take turns, launch by launch (A B B A).")
]
Budgets = Annotated[
    list[str] | None,
    _measured(
        "BUDGET",
        'A limit such as "p99<=30ms", "compute.p50<=8ms", "drops<=0.1%", "memory<=256MB", "energy<=0.5J" (a frame),'
        ' "power<=10W" or "temp<=85C"; repeatable.',
        "--budget",
    ),
]
MemoryLimit = Annotated[
    str | None, _measured("SIZE", 'What a worker may take, such as "256MB"; a model that needs more fails.')
]
TelemetryRate = Annotated[
    float, _measured("HZ", "Telemetry samples a second at most, 0 to 50; 0 for none.", "--telemetry-rate")
]
Sensors = Annotated[
    list[str] | None,
    _measured(
        "NAME",
        "Read a source that costs the device something too: pmic, tegrastats or jtop (see backbench device show);"
        " repeatable.",
        "--sensor",
    ),
]
WaitCool = Annotated[
    str | None, _prepared("TEMP", 'Wait before the first frame until the hottest zone is below this: "45C".')
]
MaxWait = Annotated[str | None, _prepared("TIME", "Longest wait for that, then the run is invalid; default: 10m.")]
Regime = Annotated[
    str,
    _prepared(
        "NAME",
        "as-shipped (clocks move as they do in the product) or locked (clocks are pinned; a run that throttles or whose"
        " clocks were not pinned is invalid).",
    ),
]
SetClocks = Annotated[
    bool,
    typer.Option(
        "--set-clocks",
        help="Pin the clocks for the run and put back what was; the agent must be started with --allow-set-clocks.",
        rich_help_panel=_PREPARED,
    ),
]
MemoryPass = Annotated[
    bool, _measured(None, "Leave out the pass that measures memory.", " /--no-memory-pass", show_default=False)
]
Layers = Annotated[
    bool,
    typer.Option(
        "--layers",
        help="Take the times of the model's layers in a pass of its own after the others; see backbench layers.",
        rich_help_panel="What is measured and judged",
    ),
]
Timeout = Annotated[
    float | None,
    _measured("SECONDS", "Longest time for one run; default: its timed windows and an hour.", "--timeout"),
]
Name = Annotated[str, _measured("TEXT", "A name kept with the runs.")]
Priority = Annotated[
    str,
    _measured("NAME", "Who goes first on a device with a queue: interactive, or nightly, which lets others go first."),
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach", help="Hand the runs over and end at once; the device measures alone. See backbench run collect."
    ),
]
