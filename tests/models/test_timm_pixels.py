"""The same pixels as timm's own transform, to the bit, with the real timm: every interpolation, shape and mode."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backbench.domain.preprocess import Preprocess
from backbench.models import catalog
from backbench.models.preprocessing import decode_image, write_input

pytestmark = [
    pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed (pip install 'backbench[export]')"),
    # What torch, torchvision and timm say of themselves while they are imported is not this project's.
    pytest.mark.filterwarnings("ignore"),
]
# Bilinear and bicubic, crops from 0.875 to 1, the statistics of ImageNet, of Inception and of CLIP.
BACKBONES = (
    "resnet50.tv_in1k",
    "tf_efficientnetv2_s.in21k_ft_in1k",
    "vit_base_patch16_clip_224.openai",
)
SIZES = ((224, 224), (197, 197), (256, 320), (33, 47))
PHOTOGRAPHS = sorted(Path(str(files("backbench.models") / "photos")).glob("*.jpg"))
# (width, height) of cuts, with odd sides, very long ones, one smaller than any input, and one of exactly 224.
CUTS = {f"{size[0]}x{size[1]}": size for size in ((301, 173), (173, 301), (637, 97), (31, 29), (224, 224), (255, 256))}


@pytest.fixture(scope="module")
def timm() -> Any:
    from backbench.controller.export.timm_import import import_timm

    return import_timm()


def photographs() -> Iterator[tuple[str, bytes]]:
    """Every shipped photograph, and cuts of one in every mode that an image file has."""
    for path in PHOTOGRAPHS:
        yield path.stem, path.read_bytes()
    colour = Image.open(PHOTOGRAPHS[0]).convert("RGB")
    for name, size in CUTS.items():
        yield name, encoded(colour.crop((3, 5, 3 + size[0], 5 + size[1])), "PNG")
    transparent = colour.crop((0, 0, 301, 173))
    transparent.putalpha(Image.linear_gradient("L").resize((301, 173)))
    small = colour.crop((0, 0, 301, 173))
    yield "rgba", encoded(transparent, "PNG")
    yield "grey", encoded(small.convert("L"), "PNG")
    yield "grey jpeg", encoded(small.convert("L"), "JPEG")
    yield "grey and alpha", encoded(transparent.convert("LA"), "PNG")
    yield "palette", encoded(small.convert("P"), "PNG")
    yield "one bit", encoded(small.convert("1"), "PNG")
    yield "cmyk", encoded(small.convert("CMYK"), "JPEG")
    yield "webp", encoded(transparent, "WEBP")


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def of_timm(timm: Any, config: dict[str, Any], size: tuple[int, int], data: bytes) -> NDArray[np.float32]:
    """What timm's evaluation transform makes of an image file, read as its datasets read it."""
    transform = timm.data.create_transform(**{**config, "input_size": (3, *size)}, is_training=False)
    pixels: NDArray[np.float32] = transform(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
    return pixels


def of_backbench(preprocess: Preprocess, size: tuple[int, int], data: bytes) -> NDArray[np.float32]:
    out = np.full((3, *size), np.nan, np.float32)
    write_input(decode_image(data), out, preprocess, *size)
    return out


def preprocess_of(config: dict[str, Any]) -> Preprocess:
    return Preprocess(tuple(config["mean"]), tuple(config["std"]), config["interpolation"], config["crop_pct"])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_photograph_becomes_the_pixels_of_timm_at_every_size(timm: Any, backbone: str) -> None:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(backbone).to_dict())
    assert config["crop_mode"] == "center"
    preprocess = preprocess_of(config)
    for name, data in photographs():
        # The backbone's own size for all, every other one for the cuts.
        for size in {config["input_size"][1:], *(SIZES if name in CUTS else ())}:
            ours, theirs = of_backbench(preprocess, size, data), of_timm(timm, config, size, data)
            assert ours.tobytes() == theirs.tobytes(), f"{name} at {size}"


@pytest.mark.parametrize("name", catalog.names())
def test_the_preprocessing_of_a_recipe_is_that_of_its_weights(timm: Any, name: str) -> None:
    recipe = catalog.recipe(name)
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(f"{name}.{recipe.timm_tag}").to_dict()
    )
    assert recipe.preprocess == preprocess_of(config)
    data = PHOTOGRAPHS[-1].read_bytes()
    assert (
        of_backbench(recipe.preprocess, recipe.size, data).tobytes()
        == of_timm(timm, config, recipe.size, data).tobytes()
    )
