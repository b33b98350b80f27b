"""What is done with the outputs of a frame, within its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from backbench.agent.backends.base import WorkerFailure
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backbench.agent.backends.base import Engine

Postprocess = Callable[[], object]


def postprocess_named(name: str, engine: Engine) -> Postprocess | None:
    """The work of that name on the engine's newest outputs; None for "". "top-1" is all there is.

    The engine must have run once. Raises WorkerFailure where its output is not of the kind that the work takes.
    """
    if not name:
        return None
    if name != "top-1":
        raise WorkerFailure(FailureReason.INVALID_INPUT, f'no postprocessing "{name}"; use top-1 or none')
    return _top_1(engine)


def _top_1(engine: Engine) -> Postprocess:
    """The place of the largest number along the last axis of the first output, as a classifier's user takes it."""
    outputs, argmax = engine.outputs, np.argmax
    scores = outputs()[0]
    if scores.ndim == 0 or scores.size == 0:
        raise WorkerFailure(
            FailureReason.SHAPE_MISMATCH,
            f"top-1 needs an output with classes, and {engine.output_names[0]} has the shape {list(scores.shape)};"
            " use --postprocess none",
        )
    classes = np.zeros(scores.shape[:-1], np.intp)

    def top_1() -> NDArray[np.intp]:
        return argmax(outputs()[0], axis=-1, out=classes)

    top_1()
    return top_1
