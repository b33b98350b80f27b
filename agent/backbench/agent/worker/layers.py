"""The layers pass: inferences that nobody times from outside, and what the engine says of its layers' times."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from backbench.agent.backends.base import Layered, WorkerFailure
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    from backbench.agent.backends.base import Engine
    from backbench.agent.worker.inputs import Inputs
    from backbench.agent.worker.job import Job

_INFERENCES = 20
_LONGEST_NS = 10 * 10**9
"""No inference begins later than this after the first one, but for the second."""
_MOST_LAYERS = 2000
_LONGEST_NAME = 300
"""An engine that fuses layers joins their names; all of them together must fit into one message."""


def profiled_layers(job: Job, engine: Engine, inputs: Inputs) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The layers as they go into a report, and its counters. Raises WorkerFailure where the engine tells of none.

    The first inference, which the engine leaves out of its means, has been made.
    """
    if not isinstance(engine, Layered):
        raise WorkerFailure(
            FailureReason.BACKEND_UNAVAILABLE,
            f"backend {job.backend} does not tell the times of layers; leave --layers away",
        )
    until_ns = time.perf_counter_ns() + _LONGEST_NS
    count = 0
    while count < _INFERENCES and (count == 0 or time.perf_counter_ns() < until_ns):
        engine.infer(inputs.fill(count))
        count += 1
    layers = list(engine.layers())
    counters = {"inference_count": count, "layer_count": len(layers)}
    if len(layers) > _MOST_LAYERS:
        slowest = sorted(range(len(layers)), key=lambda place: layers[place].mean_ns, reverse=True)[:_MOST_LAYERS]
        layers = [layers[place] for place in sorted(slowest)]
    return [{**dataclasses.asdict(layer), "name": layer.name[:_LONGEST_NAME]} for layer in layers], counters
