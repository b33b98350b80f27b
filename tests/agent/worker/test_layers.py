"""The layers pass: how many inferences it makes, and what of the layers is reported. Engines of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.worker import layers as layers_module
from backbench.agent.worker.inputs import inputs_for
from backbench.agent.worker.job import Job
from backbench.agent.worker.layers import profiled_layers
from backbench.domain.event import Layer

MakeJob = Callable[..., Job]


class Silent:
    """An engine that tells nothing of its layers."""

    def __init__(self) -> None:
        self.inferences = 0

    def infer(self, _: int) -> None:
        self.inferences += 1


class Telling(Silent):
    """An engine that tells what it was given."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self._layers = layers

    def layers(self) -> Sequence[Layer]:
        return self._layers


def told(make_job: MakeJob, engine: Silent) -> tuple[list[dict[str, Any]], dict[str, int]]:
    job = make_job(purpose="layers")
    return profiled_layers(job, cast(Any, engine), inputs_for(job))


def test_layers_come_in_the_order_of_execution_with_how_many_inferences_they_are_of(make_job: MakeJob) -> None:
    layers = [Layer("b", "Conv", "CPU", 5, 20), Layer("a", "Relu", "CPU", 9, 20)]
    engine = Telling(layers)
    found, counters = told(make_job, engine)
    assert [Layer(**layer) for layer in found] == layers
    assert counters == {"inference_count": engine.inferences, "layer_count": 2}
    assert engine.inferences == 20


def test_a_slow_model_is_not_run_for_ever(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module, "_LONGEST_NS", 0)
    engine = Telling([])
    assert told(make_job, engine)[1]["inference_count"] == engine.inferences == 1


def test_of_too_many_layers_the_slowest_are_kept_in_their_order(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers_module, "_MOST_LAYERS", 3)
    layers = [Layer(str(place), "Conv", "CPU", length, 1) for place, length in enumerate([5, 1, 9, 2, 7])]
    found, counters = told(make_job, Telling(layers))
    assert [layer["name"] for layer in found] == ["0", "2", "4"]
    assert counters["layer_count"] == 5


def test_a_name_that_a_fusion_made_long_is_cut(make_job: MakeJob) -> None:
    found, _ = told(make_job, Telling([Layer("+".join(["conv"] * 1000), "Conv", "GPU", 1, 1)]))
    assert len(found[0]["name"]) == 300


def test_an_engine_that_tells_nothing_of_layers_is_refused_with_the_remedy(make_job: MakeJob) -> None:
    with pytest.raises(WorkerFailure, match="leave --layers away"):
        told(make_job, Silent())
