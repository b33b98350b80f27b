"""The converting process: `python -m backbench.controller.export.conversion_worker FOLDER`, a job on standard input.

It leaves the model of the job in the folder (`model.onnx`), in another precision where that is asked for, and its
outputs for a few frames (`reference.npz`). A model that is too large for the memory ends this process, not its caller.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backbench.domain.errors import BackbenchError
from backbench.domain.preprocess import Preprocess

_NO_MEMORY = "memory ran out; take a smaller model, size or batch, or a larger machine"


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """What is made of `source`, a model or a skeleton; `precision` None leaves it as it is.

    `preprocess` is how the reference frames are fed, `calibration` the fields of a CalibrationSet, None for the shipped
    photographs. `stated_precision` is the precision that the tolerance of the reference is for.
    """

    source: str
    batch: int
    height: int
    width: int
    preprocess: Preprocess
    precision: str | None = None
    target: str = "cpu"
    calibration: dict[str, Any] | None = None
    stated_precision: str = "fp32"

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def job_from_json(text: str) -> ConversionJob:
    """The job in one line of JSON."""
    values = json.loads(text)
    image = values.pop("preprocess")
    preprocess = Preprocess(**{**image, "mean": tuple(image["mean"]), "std": tuple(image["std"])})
    return ConversionJob(preprocess=preprocess, **values)


def main(arguments: list[str]) -> int:
    """Do one job; 0 when both files are there."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answer
    try:
        answer = {"event": "result", "report": _perform(job_from_json(sys.stdin.read()), Path(arguments[0]))}
        status = 0
    except BackbenchError as error:
        answer, status = {"event": "failure", "class": type(error).__name__, "message": error.message}, 1
    except MemoryError:
        answer, status = {"event": "failure", "class": "InvalidArgument", "message": _NO_MEMORY}, 1
    stream.write(json.dumps(answer) + "\n")
    stream.flush()
    return status


def _perform(job: ConversionJob, folder: Path) -> dict[str, Any] | None:
    from backbench.controller.export.calibration import CalibrationSet
    from backbench.controller.export.precision import convert
    from backbench.controller.export.reference_outputs import reference_frames, reference_from_model
    from backbench.models.onnx_input import inspect_input, onnx_for_size
    from backbench.models.skeleton import is_skeleton, materialise

    source, model, report = Path(job.source), folder / "model.onnx", None
    fixed = folder / "fixed.onnx" if job.precision else model
    fix = materialise if is_skeleton(source) else onnx_for_size
    fix(source, fixed, batch=job.batch, height=job.height, width=job.width)
    if job.precision:
        chosen = None
        if job.calibration is not None:
            parts = {part: tuple(map(Path, job.calibration[part])) for part in ("calibration", "held_out")}
            chosen = CalibrationSet(**{**job.calibration, **parts})
        stated = inspect_input(fixed).preprocess
        done = convert(fixed, model, job.precision, job.target, inputs=chosen, preprocess=stated)  # type: ignore[arg-type]
        report = done.to_document()
        fixed.unlink()
    frames = reference_frames(None, job.preprocess, job.height, job.width)
    precision = job.precision or job.stated_precision
    reference_from_model(model, frames, job.preprocess, folder / "reference.npz", precision=precision)
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
