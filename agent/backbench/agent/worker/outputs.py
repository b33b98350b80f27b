"""What the engine gives for reference frames, held against the reference: a fast wrong engine must not pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbench.agent.backends.base import WorkerFailure
from backbench.domain.errors import InvalidModel
from backbench.domain.run import FailureReason
from backbench.models.reference import TOLERANCES, OutputError, Reference, output_errors, read_reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backbench.agent.backends.base import Engine
    from backbench.agent.worker.job import Job

Produced = Mapping[str, "NDArray[np.float32]"]


def opened_reference(job: Job) -> Reference | None:
    """The job's reference outputs; None where it names none. Raises WorkerFailure for what does not fit the run."""
    if job.reference_path is None:
        return None
    path = Path(job.reference_path)
    try:
        reference = read_reference(path)
    except InvalidModel as error:
        words = error.message.removeprefix(f"{path}: ")
        raise WorkerFailure(FailureReason.INVALID_INPUT, f"the reference outputs cannot be used: {words}") from error
    if (reference.height, reference.width) != (job.height, job.width):
        raise WorkerFailure(
            FailureReason.INVALID_INPUT,
            f"the reference outputs are of {reference.height}x{reference.width}, the run is of"
            f" {job.height}x{job.width}; export the model for this size, or leave the reference away",
        )
    return reference


def output_checks(
    reference: Reference, job: Job, engine: Engine, slot: NDArray[np.float32], tell: Callable[[], None]
) -> list[dict[str, Any]]:
    """One row an output, with the fields of `OutputCheck`; `slot` is the engine's first buffer, and is overwritten.

    In a batch every place gets the same frame, and the first and the last one are compared; the worse counts. `tell`
    is called before every frame.
    """
    places = _produced(reference, job, engine, slot, tell)
    errors = zip(*(output_errors(reference, produced) for produced in places), strict=True)
    # An engine that was asked to compute in less than the model holds is as right as that precision lets it be.
    tolerance = max(reference.tolerance, TOLERANCES.get(job.precision, 0.0))
    return [_row(reference, _worst(of_output), tolerance) for of_output in errors]


def _produced(
    reference: Reference, job: Job, engine: Engine, slot: NDArray[np.float32], tell: Callable[[], None]
) -> list[Produced]:
    wanted = {output.name for output in reference.outputs}
    places = sorted({0, job.batch - 1})
    kept: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in places]
    for number, frame in enumerate(reference.normalised(job.preprocess)):
        tell()
        slot[:] = frame
        for name, value in _outputs(engine, number).items():
            # An output without the batch in front has no part that belongs to a place: it counts as missing.
            if name in wanted and value.shape[:1] == (job.batch,):
                for place, of_place in zip(places, kept, strict=True):
                    of_place.setdefault(name, []).append(value[place].astype(np.float32))
    return [_stacked(of_place, reference.frame_count) for of_place in kept]


def _outputs(engine: Engine, frame: int) -> dict[str, NDArray[Any]]:
    try:
        engine.infer(0)
        return dict(zip(engine.output_names, engine.outputs(), strict=True))
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        raise WorkerFailure(
            FailureReason.OUTPUT_MISMATCH,
            f"the engine fails on frame {frame} of the reference, which the model ran when it was exported: {words}",
        ) from error


def _stacked(outputs: Mapping[str, Sequence[NDArray[np.float32]]], count: int) -> Produced:
    """The outputs of all frames as one array each; one whose shape changes from frame to frame is left out."""
    return {
        name: np.stack(values)
        for name, values in outputs.items()
        if len(values) == count and len({value.shape for value in values}) == 1
    }


def _worst(errors: Sequence[OutputError]) -> OutputError:
    differences = [error.max_relative_error for error in errors]
    cosines = [error.cosine for error in errors]
    return OutputError(
        errors[0].name, _known(differences, max), _known(cosines, min), all(error.finite for error in errors)
    )


def _known(numbers: Sequence[float | None], worst: Callable[[list[float]], float]) -> float | None:
    known = [number for number in numbers if number is not None and math.isfinite(number)]
    return worst(known) if len(known) == len(numbers) else None


def _row(reference: Reference, error: OutputError, tolerance: float) -> dict[str, Any]:
    return {
        "name": error.name,
        "max_relative_error": error.max_relative_error,
        "cosine": error.cosine,
        "finite": error.finite,
        "tolerance": tolerance,
        "passed": error.within(tolerance),
        "frame_count": reference.frame_count,
        "made_by": " ".join(reference.made_by.split())[:80],
    }
