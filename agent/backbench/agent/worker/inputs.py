"""What the engine is fed: real images, preprocessed for every frame, or seeded noise made beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbench.agent.backends.base import WorkerFailure
from backbench.domain.errors import InvalidImage
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backbench.agent.worker.job import Job


class Inputs:
    """Bound input buffers (`slots`), and per frame: which slot, which input, and the work to fill it."""

    slots: list[NDArray[np.float32]]
    count: int
    timed: bool
    fill: Callable[[int], int]
    """Make frame k's input ready; returns the slot that holds it."""


class ImageInputs(Inputs):
    """Encoded images in memory; each frame decodes, resizes, crops and normalises into the one input buffer."""

    timed = True

    def __init__(self, job: Job) -> None:
        from backbench.models.preprocessing import decode_image, write_input

        self.count = len(job.image_paths)
        self._encoded = [Path(path).read_bytes() for path in job.image_paths]
        for name, data in zip(job.image_names, self._encoded, strict=True):
            try:
                decode_image(data)
            except InvalidImage as error:
                raise WorkerFailure(FailureReason.INVALID_INPUT, f"{name}: {error}") from error
        buffer = np.zeros((job.batch, 3, job.height, job.width), np.float32)
        self.slots = [buffer]
        encoded, count, preprocess, height, width = self._encoded, self.count, job.preprocess, job.height, job.width
        views = [buffer[place] for place in range(job.batch)]

        def fill(frame: int) -> int:
            first = frame * len(views)
            for place, view in enumerate(views):
                image = decode_image(encoded[(first + place) % count])
                write_input(image, view, preprocess, height, width)
            return 0

        self.fill = fill


class SyntheticInputs(Inputs):
    """Normally distributed tensors from a seed, made before the window and cycled."""

    timed = False

    def __init__(self, job: Job) -> None:
        self.count = count = job.synthetic_count
        shape = (job.batch, 3, job.height, job.width)
        generators = (np.random.Generator(np.random.PCG64([job.seed, place])) for place in range(count))
        self.slots = [generator.standard_normal(shape, np.float32) for generator in generators]
        self.fill = lambda frame: frame % count


def inputs_for(job: Job) -> Inputs:
    """The inputs that a job asks for. Raises WorkerFailure when an image cannot be decoded."""
    return ImageInputs(job) if job.image_paths else SyntheticInputs(job)
