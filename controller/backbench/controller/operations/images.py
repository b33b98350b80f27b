"""Images on their way to a device: the user's, or made-up ones of a camera's resolution."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from backbench.controller.client.uploads import Upload
from backbench.controller.operations.models import Size, parse_size
from backbench.controller.store.leftovers import remove_abandoned
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import InvalidArgument
from backbench.models.preprocessing import MAX_PIXELS

SYNTHETIC = "synthetic:"
"""Before a size in place of a path."""
_COUNT = 8
_GRAIN = 16
_QUALITY = 90


def image_upload(path: Path) -> Upload:
    """The image as an artifact."""
    return Upload(path, ArtifactKind.IMAGE, path.name)


def synthetic_images(size: str, root: Path) -> Path:
    """A folder below `root` of eight JPEG images of a size such as "1080x1920" (height x width), made if need be.

    Blurred seeded noise with a grain: as a photograph has, much of it in the low frequencies and some in all, so that
    decoding takes about as long. Raises InvalidArgument for a size that is none.
    """
    try:
        height, width = parse_size(size)
    except InvalidArgument:
        height = width = 0
    if not 0 < height * width <= MAX_PIXELS:
        raise InvalidArgument(
            f"--inputs {SYNTHETIC}{size}: no size of at most {MAX_PIXELS // 1_000_000} million pixels;"
            f" write HEIGHTxWIDTH, {SYNTHETIC}1080x1920"
        )
    folder = root / "inputs" / f"synthetic-{height}x{width}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent, ".part-*")
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            for place in range(_COUNT):
                _synthetic(place, (height, width)).save(part / f"{folder.name}-{place}.jpg", quality=_QUALITY)
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was quicker, and made the same
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _synthetic(seed: int, size: Size) -> Image.Image:
    random = np.random.Generator(np.random.PCG64(seed))
    height, width = size
    coarse = random.integers(0, 256, (-(-height // _GRAIN) + 1, -(-width // _GRAIN) + 1, 3), np.uint8)
    blurred = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = random.integers(-12, 13, blurred.shape, np.int16)
    return Image.fromarray(np.clip(blurred + grain, 0, 255).astype(np.uint8))
