"""Made-up images of a camera's resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbench.controller.operations.images import synthetic_images
from backbench.domain.errors import InvalidArgument


def test_eight_different_photographs_of_the_size_are_made_once(tmp_path: Path) -> None:
    folder = synthetic_images("120x160", tmp_path)
    images = sorted(folder.iterdir())
    assert len({path.read_bytes() for path in images}) == 8
    for path in images:
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (160, 120))
            assert np.asarray(image).std() > 20
    first = images[0].stat().st_mtime_ns
    assert synthetic_images("120x160", tmp_path) == folder
    assert images[0].stat().st_mtime_ns == first
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == ["synthetic-120x160"]


def test_the_same_size_gives_the_same_bytes_elsewhere(tmp_path: Path) -> None:
    one, other = (synthetic_images("64", tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in sorted(one.iterdir())] == [p.read_bytes() for p in sorted(other.iterdir())]


@pytest.mark.parametrize("size", ["", "large", "0x10", "16384x16384", "10x10x10"])
def test_a_size_that_is_none_is_refused_and_leaves_nothing(size: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"^--inputs synthetic:.* write HEIGHTxWIDTH"):
        synthetic_images(size, tmp_path)
    assert list(tmp_path.iterdir()) == []
