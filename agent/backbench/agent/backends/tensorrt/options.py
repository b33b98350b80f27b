"""The options that TensorRT's backends take by name, and what their values may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from backbench.agent.backends.base import WorkerFailure
from backbench.domain.run import FailureReason

OPTION_NAMES = (
    "cuda-graph", "cuda-library", "device", "dla", "optimization-level", "sync", "timing-cache", "workspace",
)  # fmt: skip
_UNITS = {"": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_SIZE = re.compile(r"(\d+)\s*(KB|MB|GB)?", re.IGNORECASE)
_CHOICES = {
    "cuda-graph": ("yes", "no"),
    "cuda-library": ("", "pycuda", "cuda-bindings"),
    "sync": ("spin", "blocking"),
    "timing-cache": ("yes", "no"),
}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What was asked for, looked at. `dla` is a core's number; None stands for the library's own default."""

    device: int = 0
    dla: int | None = None
    cuda_graph: bool = False
    sync: str = "spin"
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: bool = True


def engine_options(options: Mapping[str, str]) -> EngineOptions:
    """Raises WorkerFailure where a name or a value is none that TensorRT's backends take."""
    unknown = sorted(set(options) - set(OPTION_NAMES))
    if unknown:
        raise _refused(f'no option "{unknown[0]}"; there are {", ".join(OPTION_NAMES)}')
    for name, choices in _CHOICES.items():
        if options.get(name, choices[0]) not in choices:
            raise _refused(f'option {name} is {" or ".join(filter(None, choices))}, not "{options[name]}"')
    return EngineOptions(
        device=_number(options, "device", 0, 63) or 0,
        dla=_number(options, "dla", 0, 15),
        cuda_graph=options.get("cuda-graph") == "yes",
        sync=options.get("sync", "spin"),
        workspace_bytes=_size(options.get("workspace")),
        optimization_level=_number(options, "optimization-level", 0, 5),
        timing_cache=options.get("timing-cache", "yes") == "yes",
    )


def _number(options: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,3}", text) or not least <= int(text) <= most:
        raise _refused(f'option {name} is a number from {least} to {most}, not "{text}"')
    return int(text)


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0 or len(found[1]) > 12:
        raise _refused(f'option workspace is a size like "512MB" or "2GB", not "{text}"')
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


def _refused(message: str) -> WorkerFailure:
    return WorkerFailure(FailureReason.INVALID_INPUT, message)
