"""The images that a quantized model is calibrated with, those that it is judged by, and feeding both to a session."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbench.controller.export.images import read_image
from backbench.domain.errors import InvalidArgument
from backbench.domain.preprocess import Preprocess
from backbench.models.preprocessing import write_input

CALIBRATION_LIMIT = 128
HELD_OUT_LIMIT = 64
_HELD_OUT_EVERY = 5


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Images by their part. `found_count` is how many there were, `independent` whether the two parts share none.

    `source` tells where they come from: "images" that were given, or the "shipped photographs".
    """

    calibration: tuple[Path, ...]
    held_out: tuple[Path, ...]
    found_count: int
    source: str = "images"

    @property
    def independent(self) -> bool:
        """False where the only image serves both purposes."""
        return not set(self.calibration) & set(self.held_out)


def shipped_photographs() -> tuple[Path, ...]:
    """The photographs that come with Backbench, by name: real images, for where nobody gave any."""
    folder = Path(str(files("backbench.models"))) / "photos"
    return tuple(sorted(path for path in folder.iterdir() if path.suffix == ".jpg"))


def calibration_set(
    images: Sequence[Path], *, limit: int = CALIBRATION_LIMIT, source: str = "images"
) -> CalibrationSet:
    """Every fifth image is held out, from the first on; the others calibrate, `limit` at most, evenly spread.

    A single image does both, and the set says so. The same images give the same parts.

    >>> calibration_set([Path(name) for name in "abcdef"]).held_out
    (PosixPath('a'), PosixPath('f'))
    """
    if limit < 1:
        raise InvalidArgument(f"{limit} images cannot calibrate a model; allow at least 1")
    held_out = images[::_HELD_OUT_EVERY]
    rest = [image for image in images if image not in held_out] or list(images)
    return CalibrationSet(_spread(rest, limit), _spread(held_out, HELD_OUT_LIMIT), len(images), source)


def shipped_set() -> CalibrationSet:
    """The shipped photographs as a set."""
    return calibration_set(shipped_photographs(), source="shipped photographs")


class ImageBatches:
    """The images as inputs of one size and batch, one batch in memory at a time; also ONNX Runtime's data reader.

    The last batch is filled up with the first images. Every batch is the same array, overwritten.
    """

    def __init__(
        self, images: Sequence[Path], name: str, dims: tuple[int, int, int, int], preprocess: Preprocess
    ) -> None:
        self._images = images
        self._name = name
        self._preprocess = preprocess
        self._buffer = np.empty(dims, np.float32)
        self._next, self._end = 0, len(self)

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._buffer.shape[0])

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Each batch, and how many of its places hold an image that was not there before."""
        size = self._buffer.shape[0]
        for index in range(len(self)):
            yield self._filled(index), min(size, len(self._images) - index * size)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Let `get_next` give these batches."""
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch by the input's name; None after the last."""
        if self._next >= self._end:
            return None
        self._next += 1
        return {self._name: self._filled(self._next - 1)}

    def _filled(self, index: int) -> NDArray[np.float32]:
        size, _, height, width = self._buffer.shape
        for place, view in enumerate(self._buffer):
            path = self._images[(index * size + place) % len(self._images)]
            write_input(read_image(path), view, self._preprocess, height, width)
        return self._buffer


def _spread(images: Sequence[Path], limit: int) -> tuple[Path, ...]:
    if len(images) <= limit:
        return tuple(images)
    return tuple(images[place * len(images) // limit] for place in range(limit))
