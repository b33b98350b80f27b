"""The exporting process: `python -m backbench.controller.export.worker FOLDER`, a request on standard input.

It leaves `model.onnx` and `reference.npz` in the folder. Its last line on standard output is a JSON document: what was
compared, or why there is no file. Torch, its memory and its messages stay in here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from backbench.controller.export.request import ExportRequest, request_from_json
from backbench.controller.export.torch_model import TorchModel, ran_out_of_memory
from backbench.domain.errors import BackbenchError, InvalidArgument, InvalidModel
from backbench.models.onnx_file import LARGEST_FILE, first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from backbench.domain.preprocess import Preprocess

    Outputs = dict[str, NDArray[np.float32]]

_NO_MEMORY = "memory ran out; take a smaller model or size, or a larger machine"
_BASE_BYTES = 900_000_000
_ALL = 100
_COPIES = 5
"""Of the weights in memory at the worst moment: torch's, the exporter's, the message, its bytes, ONNX Runtime's."""


def main(arguments: list[str]) -> int:
    """Export one model; 0 when both files are there."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # torch's exporter prints, and that must not mix with the answer
    try:
        result = _export(request_from_json(sys.stdin.read()), Path(arguments[0]), stream)
    except BackbenchError as error:
        return _failed(stream, type(error).__name__, error.message)
    except Exception as error:  # the edge of the process; torch raises what it likes
        if ran_out_of_memory(error):
            return _failed(stream, "InvalidArgument", _NO_MEMORY)
        if os.environ.get("BACKBENCH_DEBUG"):
            raise
        words = f"{type(error).__name__}: {' '.join(first_line(error).split())[:200]}"
        return _failed(stream, "InvalidModel", f"torch cannot export it ({words}); BACKBENCH_DEBUG=1 shows where")
    _send(stream, {"event": "result", **result})
    return 0


def _export(request: ExportRequest, folder: Path, stream: TextIO) -> dict[str, Any]:
    from backbench.controller.export.reference_outputs import reference_frames
    from backbench.controller.export.timm_import import import_timm
    from backbench.controller.export.torch_export import torch_outputs
    from backbench.controller.export.torch_model import torch_model
    from backbench.models.preprocessing import normalised_frames
    from backbench.models.reference import TOLERANCES, write_reference

    _stage(stream, "import torch")
    timm = import_timm()
    _stage(stream, "create")
    model = torch_model(timm, request, _photographs)
    _check_memory(model.name, sum(parameter.numel() for parameter in model.module.parameters()))
    frames = reference_frames(None, model.preprocess, model.height, model.width)
    images = normalised_frames(frames, model.preprocess)
    expected = torch_outputs(model, images)
    _check_finite(model, expected)
    _stage(stream, "export")
    begun = time.perf_counter()
    path = folder / "model.onnx"
    layers = _write_model(model, request, path)
    export_s = time.perf_counter() - begun
    _stage(stream, "compare")
    verification = _compared(model, request, path, expected, images, layers)
    write_reference(
        folder / "reference.npz",
        frames,
        expected,
        tolerance=max(TOLERANCES["fp32"], verification["tolerance"]),
        made_by=verification["against"],
        precision="fp32",
    )
    return {
        "name": model.name,
        "size": [model.height, model.width],
        "opset": request.opset,
        "export_s": export_s,
        "verification": verification,
    }


def _check_finite(model: TorchModel, outputs: Outputs) -> None:
    import numpy as np

    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise InvalidModel(f"{model.name}: torch's output {name} is not finite; check the weights for NaN")


def _photographs(preprocess: Preprocess, height: int, width: int) -> NDArray[np.float32]:
    """Every shipped photograph as an input."""
    from backbench.controller.export.reference_outputs import reference_frames
    from backbench.models.preprocessing import normalised_frames

    frames = reference_frames(None, preprocess, height, width, count=_ALL)
    return normalised_frames(frames, preprocess)


def _write_model(model: TorchModel, request: ExportRequest, path: Path) -> int:
    """Export to `path`; how many convolutions and matrix products there are. The message is gone from memory then."""
    from backbench.controller.export.torch_export import layer_count, onnx_from_torch
    from backbench.models.whole_file import written_whole

    onnx_model = onnx_from_torch(model, request)
    with written_whole(path) as file:
        file.write(onnx_model.SerializeToString(deterministic=True))
    return layer_count(onnx_model)


def _compared(
    model: TorchModel, request: ExportRequest, path: Path, expected: Outputs, images: NDArray[np.float32], layers: int
) -> dict[str, Any]:
    """What ONNX Runtime's outputs were compared with, and how far off they are. Raises InvalidModel if too far."""
    import torch

    from backbench.controller.export.ort import open_session
    from backbench.controller.export.torch_export import compare, torch_outputs

    session = open_session(path)
    comparisons = [compare(session, expected, images, layers)]
    if "size" in request.dynamic:
        other = _other_size(images, model.step)
        comparisons.append(compare(session, torch_outputs(model, other), other, layers))
    worst = max(comparison.worst for comparison in comparisons)
    tolerance = comparisons[0].tolerance
    if not worst <= tolerance:
        raise InvalidModel(
            f"{model.name}: ONNX Runtime differs from torch by {worst:.1e} of the largest value; {tolerance:g} is"
            " tolerated, so the export is not kept; try another --opset or --size"
        )
    return {
        "against": f"torch {torch.__version__.partition('+')[0]}",
        "frame_count": len(images),
        "sizes": [list(shape[2:]) for comparison in comparisons for shape in comparison.shapes],
        "max_relative_error": comparisons[0].errors,
        "worst": worst,
        "tolerance": tolerance,
    }


def _other_size(images: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """The first image, repeated to fill a size as sound as its own: two steps higher and one wider."""
    import numpy as np

    return np.pad(images[:1], ((0, 0), (0, 0), (0, 2 * step), (0, step)), mode="wrap")


def _check_memory(name: str, params: int) -> None:
    if params * 4 > LARGEST_FILE:
        raise InvalidArgument(
            f"{name} has {params * 4 / 1e9:.1f} GB of weights; one file holds up to 1.8 GB; take a smaller one"
        )
    needed = params * 4 * _COPIES + _BASE_BYTES
    free = _available_bytes()
    if free is not None and free + params * 4 < needed:  # the weights are in memory already
        raise InvalidArgument(
            f"exporting {name} takes about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; close"
            " something, or export on a larger machine"
        )


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _stage(stream: TextIO, stage: str) -> None:
    _send(stream, {"event": "stage", "stage": stage})


def _failed(stream: TextIO, kind: str, message: str) -> int:
    _send(stream, {"event": "failure", "class": kind, "message": message})
    return 1


def _send(stream: TextIO, event: dict[str, Any]) -> None:
    stream.write(json.dumps(event) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
