"""What a real TensorRT module has and what the backend makes of it, as JSON: `python tensorrt_facts.py MODULE`.

Run in a process of its own, as the bindings of only one version fit into one.
"""

from __future__ import annotations

import enum
import importlib
import json
import re
import sys
from typing import Any

from backbench.agent.backends.base import OpenRequest, WorkerFailure
from backbench.agent.backends.tensorrt.builder import build_plan
from backbench.agent.backends.tensorrt.layers import LayerTimes, make_profiler
from backbench.agent.backends.tensorrt.logger import LogLines, make_logger
from backbench.agent.backends.tensorrt.module import Library
from backbench.agent.backends.tensorrt.options import EngineOptions
from backbench.agent.backends.tensorrt.precision import engine_precisions, policy_for
from backbench.agent.backends.tensorrt.progress import make_monitor


def main() -> None:
    module = importlib.import_module(sys.argv[1])
    library = Library(module, "TensorRT", is_rtx=sys.argv[1] == "tensorrt_rtx")
    classes = {name: _members(kind) for name, kind in vars(module).items() if isinstance(kind, type)}
    facts = {
        "version": module.__version__,
        "classes": classes,
        "engine_precisions": engine_precisions(library),
        "policies": {precision: _policy(library, precision) for precision in ("", "fp16", "bf16", "int8", "fp4")},
        "on_dla": _policy(library, "", on_dla=True),
        "network_flags": {name: int(flag) for name, flag in module.NetworkDefinitionCreationFlag.__members__.items()},
        "heard": _heard(module),
    }
    if not library.is_rtx:
        facts["build"] = _build(library)
    json.dump(facts, sys.stdout)


def _members(kind: Any) -> dict[str, list[list[str]]]:
    """Names of a class's attributes; of those that are functions, the names of the parameters of each overload."""
    members = kind.__members__ if hasattr(kind, "__members__") else dir(kind)
    return {name: _overloads(kind, name) for name in members if not name.startswith("__") or name == "__init__"}


def _overloads(kind: Any, name: str) -> list[list[str]]:
    text = getattr(getattr(kind, name, None), "__doc__", None) or ""
    if isinstance(kind, enum.EnumMeta) or not callable(getattr(kind, name, None)):
        return []
    found = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) ->", text, re.MULTILINE)
    return [names for names in map(_parameters, found) if names[:1] != ["*args"]]


def _parameters(text: str) -> list[str]:
    names, depth, start = [], 0, 0
    for place, letter in enumerate(text + ","):
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            names.append(text[start:place].partition(":")[0].strip())
            start = place + 1
    return [name for name in names if name not in ("self", "")]


def _policy(library: Library, precision: str, *, on_dla: bool = False) -> Any:
    try:
        policy = policy_for(library, precision, on_dla=on_dla)
    except WorkerFailure as failure:
        return f"{failure.reason.value}: {failure}"
    return {"strongly_typed": policy.strongly_typed, "network_flags": policy.network_flags}


def _heard(module: Any) -> list[Any]:
    """What reaches us through the classes that TensorRT calls back, called here by hand."""
    lines, times, told = LogLines(), LayerTimes(), []
    make_logger(module, lines).log(module.ILogger.Severity.ERROR, "a line\nof two")
    make_profiler(module, times).report_layer_time("layer", 0.5)
    if hasattr(module, "IProgressMonitor"):
        monitor = make_monitor(module, lambda *step: told.append(step), lambda: True)
        monitor.phase_start("stage", None, 2)
        told.append(monitor.step_complete("stage", 1))
        monitor.phase_finish("stage")
    return [lines.lines("ERROR"), [layer.mean_ns for layer in times.layers({})], told]


def _build(library: Library) -> str:
    """How a build ends whose library makes no builder, as on a machine whose CUDA is of no use."""
    try:
        build_plan(library, OpenRequest("none.onnx", (1, 3, 8, 8), 1, False), EngineOptions(), None, lambda *_: None)
    except WorkerFailure as failure:
        return f"{failure.reason.value}: {failure}"
    return "built"


if __name__ == "__main__":
    main()
