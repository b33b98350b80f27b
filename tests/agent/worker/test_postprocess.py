"""Top-1 is the largest of the newest outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.worker.postprocess import postprocess_named
from backbench.domain.run import FailureReason


class Scores:
    """An engine whose newest outputs are set by hand."""

    output_names = ("scores", "features")

    def __init__(self, scores: Any) -> None:
        self.scores = np.asarray(scores, np.float32)

    def outputs(self) -> list[Any]:
        return [self.scores, np.zeros(3)]


@pytest.mark.parametrize("shape", [(1, 5), (4, 5), (1, 4, 1, 5)])
def test_top_1_is_the_place_of_the_largest_of_the_newest_numbers(shape: tuple[int, ...]) -> None:
    engine: Any = Scores(np.zeros(shape))
    top_1 = postprocess_named("top-1", engine)
    assert top_1 is not None
    engine.scores = np.zeros(shape, np.float32)
    engine.scores[..., 3] = 1
    assert np.array_equal(np.asarray(top_1()), np.full(shape[:-1], 3))


def test_no_postprocessing_is_none() -> None:
    engine: Any = Scores([[1, 2]])
    assert postprocess_named("", engine) is None


@pytest.mark.parametrize("scores", [3.0, np.zeros((1, 0))])
def test_an_output_without_classes_is_refused_before_the_window(scores: Any) -> None:
    engine: Any = Scores(scores)
    with pytest.raises(WorkerFailure, match="--postprocess none") as caught:
        postprocess_named("top-1", engine)
    assert caught.value.reason is FailureReason.SHAPE_MISMATCH


def test_an_unknown_name_is_refused() -> None:
    engine: Any = Scores([[1, 2]])
    with pytest.raises(WorkerFailure, match="top-5"):
        postprocess_named("top-5", engine)
