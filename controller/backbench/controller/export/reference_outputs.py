"""Making reference outputs: a few frames of the model's size, and what a model gives for them on one CPU thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.export.calibration import shipped_photographs
from backbench.controller.export.images import read_image
from backbench.controller.export.ort import import_ort, open_session
from backbench.domain.errors import InvalidModel
from backbench.domain.preprocess import Preprocess
from backbench.models.onnx_file import first_line
from backbench.models.preprocessing import cropped_image, normalise_into
from backbench.models.reference import TOLERANCES, write_reference

REFERENCE_FRAMES = 3


def reference_frames(
    images: Sequence[Path] | None,
    preprocess: Preprocess,
    height: int,
    width: int,
    count: int = REFERENCE_FRAMES,
) -> NDArray[np.uint8]:
    """The first `count` images resized and cropped for a model, count x height x width x 3, RGB.

    Without `images` the shipped photographs; where there are fewer than `count`, all of them.
    """
    chosen = list(images or shipped_photographs())[:count]
    frames = np.empty((len(chosen), height, width, 3), np.uint8)
    for frame, path in zip(frames, chosen, strict=True):
        frame[:] = np.asarray(cropped_image(read_image(path), preprocess, height, width))
    return frames


def reference_from_model(
    model: Path,
    frames: NDArray[np.uint8],
    preprocess: Preprocess,
    destination: Path,
    *,
    precision: str = "fp32",
    tolerance: float | None = None,
    made_by: str | None = None,
) -> None:
    """Run `model` on `frames`, each in all places of its batch, and write what it gave for the first place.

    Without `tolerance` the one of `precision` holds. Raises InvalidModel where the model does not run on these frames.
    """
    session = open_session(model)
    image = session.get_inputs()[0]
    batch = image.shape[0] if isinstance(image.shape[0], int) else 1
    names = [output.name for output in session.get_outputs()]
    buffer = np.empty((batch, 3, *frames.shape[1:3]), np.float32)
    kept: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for frame in frames:
        normalise_into(buffer[0], (frame[:, :, channel] for channel in range(3)), preprocess)
        buffer[1:] = buffer[0]
        try:
            results = session.run(names, {image.name: buffer})
        except Exception as error:
            raise InvalidModel(f"{model}: it does not run on these frames ({first_line(error)})") from error
        for name, result in zip(names, results, strict=True):
            kept[name].append(np.array(result[0]))
    write_reference(
        destination,
        frames,
        {name: np.stack(values) for name, values in kept.items()},
        tolerance=TOLERANCES[precision] if tolerance is None else tolerance,
        made_by=made_by or f"onnxruntime {import_ort().__version__} CPU",
        precision=precision,
    )
