"""Which images calibrate, which judge, and how they are fed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.controller.export.calibration import (
    HELD_OUT_LIMIT,
    ImageBatches,
    calibration_set,
    shipped_photographs,
    shipped_set,
)
from backbench.controller.export.images import find_images
from backbench.domain.errors import InvalidArgument, InvalidImage
from backbench.domain.preprocess import Preprocess
from backbench.models.preprocessing import write_input

PLAIN = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_ratio=1.0)


def paths(count: int) -> list[Path]:
    return [Path(f"{index:04}.png") for index in range(count)]


def greys(folder: Path, count: int) -> list[Path]:
    found = []
    for index in range(count):
        found.append(folder / f"{index}.png")
        Image.new("RGB", (10, 8), (index, index, index)).save(found[-1])
    return found


@pytest.mark.parametrize("count", [2, 3, 5, 6, 40, 100])
def test_every_fifth_image_is_held_out_and_no_image_does_both(count: int) -> None:
    parts = calibration_set(paths(count))
    assert len(parts.held_out) == -(-count // 5)
    assert sorted([*parts.held_out, *parts.calibration]) == paths(count)
    assert parts.independent
    assert parts.found_count == count


def test_a_single_image_does_both_and_the_set_says_so() -> None:
    parts = calibration_set(paths(1))
    assert parts.calibration == parts.held_out == tuple(paths(1))
    assert not parts.independent


def test_at_most_the_limit_calibrates_spread_over_all_of_them() -> None:
    parts = calibration_set(paths(1000), limit=50)
    assert (len(parts.calibration), len(parts.held_out)) == (50, HELD_OUT_LIMIT)
    assert parts.calibration[-1] > paths(1000)[900]
    assert parts == calibration_set(paths(1000), limit=50)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="allow at least 1"):
        calibration_set(paths(4), limit=0)


def test_a_folder_gives_its_images_by_name(tmp_path: Path) -> None:
    greys(tmp_path, 3)
    assert find_images(tmp_path / "0.png") == (tmp_path / "0.png",)
    assert [path.name for path in find_images(tmp_path)] == ["0.png", "1.png", "2.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no images in this folder"):
        find_images(tmp_path)


def test_the_shipped_photographs_calibrate_where_nobody_gave_images() -> None:
    parts = shipped_set()
    assert parts.source == "shipped photographs"
    assert parts.found_count == len(shipped_photographs()) == 8
    assert parts.independent


def test_a_batch_holds_different_images_and_the_last_one_is_filled_up(tmp_path: Path) -> None:
    reader = ImageBatches(greys(tmp_path, 5), "image", (2, 3, 4, 4), PLAIN)
    seen = [([round(float(place.mean()) * 255) for place in batch], count) for batch, count in reader]
    assert seen == [([0, 1], 2), ([2, 3], 2), ([4, 0], 1)]


def test_a_batch_larger_than_the_set_repeats_it(tmp_path: Path) -> None:
    reader = ImageBatches(greys(tmp_path, 2), "image", (5, 3, 4, 4), PLAIN)
    assert [([round(float(place.mean()) * 255) for place in batch], count) for batch, count in reader] == [
        ([0, 1, 0, 1, 0], 2)
    ]


def test_the_calibrator_is_given_the_batches_it_asks_for_in_one_buffer(tmp_path: Path) -> None:
    reader = ImageBatches(greys(tmp_path, 3), "image", (1, 3, 4, 4), PLAIN)
    assert len(reader) == 3
    reader.set_range(1, 3)
    first, second = reader.get_next(), reader.get_next()
    assert first is not None
    assert second is not None
    assert first["image"] is second["image"]
    assert reader.get_next() is None


def test_inputs_are_preprocessed_as_on_the_device() -> None:
    photograph = shipped_photographs()[0]
    batch, _ = next(iter(ImageBatches([photograph], "image", (1, 3, 32, 48), Preprocess())))
    expected = np.empty((3, 32, 48), np.float32)
    write_input(Image.open(photograph), expected, Preprocess(), 32, 48)
    assert np.array_equal(batch[0], expected)


def test_an_image_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match=r"gone\.png cannot be read"):
        next(iter(ImageBatches([tmp_path / "gone.png"], "image", (1, 3, 4, 4), PLAIN)))


def test_an_image_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(InvalidImage, match=r"bad\.png: these 8 bytes"):
        next(iter(ImageBatches([tmp_path / "bad.png"], "image", (1, 3, 4, 4), PLAIN)))
