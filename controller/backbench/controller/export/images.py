"""The user's images: found, and decoded once before anything is made of them or sent."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from backbench.domain.errors import InvalidArgument, InvalidImage
from backbench.models.preprocessing import decode_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def find_images(inputs: Path) -> tuple[Path, ...]:
    """The image at a path, or the images in the folder there, by name. Raises InvalidArgument, InvalidImage."""
    if inputs.is_dir():
        found = sorted(path for path in inputs.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise InvalidArgument(f"{inputs}: no images in this folder; it takes {', '.join(SUFFIXES)}")
    elif inputs.is_file():
        found = [inputs]
    else:
        raise InvalidArgument(f"{inputs}: no such file or folder; check the path")
    for path in found:
        read_image(path)
    return tuple(found)


def read_image(path: Path) -> Image.Image:
    """The image at `path`; raises InvalidImage, naming the file, where it cannot be read or decoded."""
    try:
        return decode_image(path.read_bytes())
    except OSError as error:
        raise InvalidImage(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except InvalidImage as error:
        raise InvalidImage(f"{path}: {error.message}") from error
