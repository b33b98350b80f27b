"""From an image's bytes to a model's input."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backbench.domain.errors import InvalidImage, ShapeMismatch
from backbench.domain.preprocess import Preprocess
from backbench.models import preprocessing
from backbench.models.catalog import recipe
from backbench.models.preprocessing import decode_image, write_input

PLACES = ((0, 0), (7, 13), (31, 31))
# Computed once with timm 1.0.31 and torchvision 0.28.0 on torch 2.13.0: `create_transform` with mobilenetv3_large_100's
# settings applied to `pattern()`; for each channel the values at PLACES, as exact float32.
TIMM_SQUARE = """-0x1.475eda0000000p+0 -0x1.24689c0000000p-2 0x1.159ce20000000p+0
-0x1.ca65d20000000p+0 -0x1.f878780000000p-1 0x1.d0d9fe0000000p+0
-0x1.51015c0000000p+0 -0x1.aeb4640000000p+0 0x1.5533140000000p+0"""
TIMM_WIDE = """-0x1.e0ceec0000000p+0 -0x1.cdd9060000000p-1 0x1.df2a120000000p-2
-0x1.ca65d20000000p+0 -0x1.f878780000000p-1 0x1.d0d9fe0000000p+0
-0x1.aa3e280000000p+0 0x1.50bcd60000000p+0 0x1.cde4ba0000000p-4"""


def pattern() -> Image.Image:
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([(x * 4) % 256, (y * 6) % 256, (x * y) % 256], -1).astype(np.uint8))


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def written(image: Image.Image, preprocess: Preprocess, height: int, width: int) -> NDArray[np.float32]:
    out = np.full((3, height, width), np.nan, np.float32)
    write_input(image, out, preprocess, height, width)
    return out


@pytest.mark.parametrize(("size", "golden"), [((32, 32), TIMM_SQUARE), ((32, 48), TIMM_WIDE)])
def test_the_values_are_those_of_timm_to_the_last_bit(size: tuple[int, int], golden: str) -> None:
    out = written(pattern(), recipe("mobilenetv3_large_100").preprocess, *size)
    values = [float(out[channel, row, column]) for channel in range(3) for row, column in PLACES]
    assert values == [float.fromhex(text) for text in golden.split()]


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (33, 47), (64, 64)])
@pytest.mark.parametrize("image_size", [(60, 40), (40, 60), (41, 41), (200, 30)])
def test_every_number_of_the_input_is_written(size: tuple[int, int], image_size: tuple[int, int]) -> None:
    out = written(pattern().resize(image_size), Preprocess(), *size)
    assert np.isfinite(out).all()
    assert np.ptp(out) > 0.5


def test_an_input_with_a_batch_of_one_gets_the_same_numbers() -> None:
    out = np.empty((1, 3, 32, 32), np.float32)
    write_input(pattern(), out, Preprocess(), 32, 32)
    assert np.array_equal(out[0], written(pattern(), Preprocess(), 32, 32))


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = pattern().crop((0, 0, 32, 32))
    plain = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_ratio=1.0)
    expected = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    assert np.array_equal(written(image, plain, 32, 32), expected)


@pytest.mark.parametrize("shape", [(3, 32, 31), (2, 3, 32, 32), (32, 32, 3)])
def test_an_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match=r"must be float32 \(3, 32, 32\)"):
        write_input(pattern(), np.empty(shape, np.float32), Preprocess(), 32, 32)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
def test_an_image_is_decoded_to_rgb(file_format: str) -> None:
    image = decode_image(encoded(pattern(), file_format))
    assert (image.mode, image.size) == ("RGB", (60, 40))


def test_a_grey_image_becomes_rgb() -> None:
    assert decode_image(encoded(pattern().convert("L"), "JPEG")).mode == "RGB"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
def test_a_truncated_image_is_refused(file_format: str, part: float) -> None:
    data = encoded(pattern(), file_format)
    with pytest.raises(InvalidImage, match=r"make the file again|send one of these") as error:
        decode_image(data[: int(len(data) * part)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"", b"hello", bytes(range(256)) * 8, b"\xff\xd8\xff\xe0", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode_image(data)


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "MAX_PIXELS", 1000)
    with pytest.raises(InvalidImage, match="60x40 pixels, more than"):
        decode_image(encoded(pattern(), "PNG"))


def test_a_decompression_bomb_is_refused() -> None:
    header = encoded(Image.new("1", (8, 8)), "BMP")
    bomb = header[:18] + (60_000).to_bytes(4, "little") + (60_000).to_bytes(4, "little") + header[26:]
    with pytest.raises(InvalidImage, match="million"):
        decode_image(bomb)
