"""From the bytes of an image to a model's input, with Pillow and numpy only; the same bits as timm's own transform.

Square sizes: the shorter side is resized to floor(size / crop_ratio), the longer one in proportion (rounded down).
Other sizes: height and width are divided by crop_ratio each, and the image is resized, in proportion, to the smallest
size that covers both (rounded to the nearest). Then the centre is cropped, scaled to 0..1 and normalised per channel.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from backbench.domain.errors import InvalidImage, ShapeMismatch
from backbench.domain.preprocess import Preprocess

MAX_PIXELS = 64_000_000
"""The largest image that is decoded; a decoded pixel takes three bytes."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_FULL_SCALE = np.float32(255)


def decode_image(data: bytes) -> Image.Image:
    """The RGB image in `data` (JPEG, PNG, WebP or BMP), fully decoded; raises InvalidImage where that fails.

    A picture's EXIF orientation is not applied, as in training.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InvalidImage(
                f"the image has {image.width}x{image.height} pixels, more than {MAX_PIXELS // 1_000_000} million;"
                " scale it down first"
            )
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise InvalidImage(
            f"the image has more than {MAX_PIXELS // 1_000_000} million pixels; scale it down first"
        ) from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"these {len(data)} bytes are no JPEG, PNG, WebP or BMP image; send one of these") from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error) as error:
        raise InvalidImage(f"the image is damaged ({_one_line(error)}); make the file again") from error


def write_input(image: Image.Image, out: NDArray[np.float32], preprocess: Preprocess, height: int, width: int) -> None:
    """Write `image` as the input of a `height` x `width` model into `out`, shaped (3, H, W) or (1, 3, H, W)."""
    planes: NDArray[Any] = out[0] if out.ndim == 4 and out.shape[0] == 1 else out
    if planes.shape != (3, height, width) or planes.dtype != np.float32:
        raise ShapeMismatch(f"the input is {out.dtype} {out.shape}; it must be float32 (3, {height}, {width})")
    bands = cropped_image(image, preprocess, height, width).split()
    normalise_into(planes, map(np.asarray, bands), preprocess)


def cropped_image(image: Image.Image, preprocess: Preprocess, height: int, width: int) -> Image.Image:
    """`image` resized and cropped for a `height` x `width` model, its pixels not yet normalised."""
    return _centre_crop(_resized(image, preprocess, height, width), height, width)


def normalise_into(planes: NDArray[np.float32], bands: Iterable[NDArray[np.uint8]], preprocess: Preprocess) -> None:
    """Write the red, green and blue `bands`, 0..255, into `planes`, shaped (3, H, W), scaled and normalised.

    Every step works in place, one channel at a time, so that a channel stays in the processor's cache. The order of
    the float32 operations is timm's: folding them into one multiply-add would be quicker by a little and change the
    last bit.
    """
    for plane, band, mean, std in zip(planes, bands, preprocess.mean, preprocess.std, strict=True):
        np.copyto(plane, band)
        np.divide(plane, _FULL_SCALE, out=plane)
        np.subtract(plane, np.float32(mean), out=plane)
        np.divide(plane, np.float32(std), out=plane)


def normalised_frames(frames: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Pixels of a model's size, k x height x width x 3 (RGB), as its input: k x 3 x height x width."""
    count, height, width, channels = frames.shape
    inputs = np.empty((count, channels, height, width), np.float32)
    for planes, frame in zip(inputs, frames, strict=True):
        normalise_into(planes, [frame[:, :, channel] for channel in range(channels)], preprocess)
    return inputs


def _resized(image: Image.Image, preprocess: Preprocess, height: int, width: int) -> Image.Image:
    target_height = math.floor(height / preprocess.crop_ratio)
    target_width = math.floor(width / preprocess.crop_ratio)
    if target_height == target_width:
        shorter = min(image.width, image.height)
        longer = int(target_height * max(image.width, image.height) / shorter)
        size = (target_height, longer) if image.width <= image.height else (longer, target_height)
    else:
        ratio = min(image.height / target_height, image.width / target_width)
        size = (round(image.width / ratio), round(image.height / ratio))
    return image if size == image.size else image.resize(size, _FILTERS[preprocess.interpolation])


def _centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Python's own rounding (half to even) decides where an odd rest goes, as it does in timm."""
    top = round((image.height - height) / 2)
    left = round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _one_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0] or type(error).__name__
