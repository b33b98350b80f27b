"""The images of a run: found, and decoded once here before anything is sent."""

from __future__ import annotations

from pathlib import Path

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
        check_image(path)
    return tuple(found)


def check_image(path: Path) -> None:
    """Raises InvalidImage, naming the file, unless it can be decoded."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidImage(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    try:
        decode_image(data)
    except InvalidImage as error:
        raise InvalidImage(f"{path}: {error.message}") from error
