from __future__ import annotations

from pathlib import Path

import pytest

PHOTOS = Path(__file__).parents[2] / "models/backbench/models/photos"


@pytest.mark.parametrize("photo", sorted(PHOTOS.glob("*.jpg")), ids=lambda path: str(path.name))
def test_a_photograph_is_a_small_colour_jpeg_without_metadata_and_credited(photo: Path) -> None:
    image = pytest.importorskip("PIL.Image").open(photo)
    with image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (640, 480))
        assert not dict(image.getexif())
        assert not {"exif", "icc_profile", "photoshop", "comment", "xmp"} & set(image.info)
    assert photo.stat().st_size < 100_000
    assert f"`{photo.name}`" in (PHOTOS / "README.md").read_text(encoding="utf-8")
