"""The text of a recipe, from what timm states of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backbench.controller.export.torch_model import known_config, preprocess_of
from backbench.models.recipe import PublishedCost, PublishedTop1, SkeletonFile

_FAMILIES = (
    "resnext", "resnet", "convnext", "mobilenetv2", "mobilenetv3", "mobilenetv4", "efficientnetv2", "efficientnet",
    "efficientformerv2", "regnet", "swin", "deit", "fastvit", "edgenext", "repvgg", "ghostnet",
)  # fmt: skip


def recipe_text(
    timm: Any,
    name: str,
    skeletons: Sequence[SkeletonFile],
    gmacs: float,
    top1: PublishedTop1 | None = None,
    published: Sequence[PublishedCost] = (),
) -> str:
    """`recipes/NAME.toml`. `gmacs` is counted on the graph; what others published is given or left out.

    Raises UnknownBackbone where timm has no model of that name.
    """
    config = known_config(timm, name)
    params = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    image = preprocess_of(config)
    lines = [
        f'name = "{name}"',
        f'timm_tag = "{config.tag}"',
        f'family = "{family_of(name)}"',
        f'licence = "{config.license or "unknown"}"',
        f"params = {params}",
        f"gmacs = {gmacs:.4g}",
        f"size = [{config.input_size[1]}, {config.input_size[2]}]",
        "",
        "[preprocess]",
        f"mean = {list(image.mean)}",
        f"std = {list(image.std)}",
        f'interpolation = "{image.interpolation}"',
        f"crop_ratio = {image.crop_ratio}",
    ]
    for file in skeletons:
        lines += ["", "[[skeletons]]", f'file = "{file.file}"', f"minimum = {file.minimum}"]
        if file.maximum is not None:
            lines.append(f"maximum = {file.maximum}")
        if file.multiple_of > 1:
            lines.append(f"multiple_of = {file.multiple_of}")
    if top1 is not None:
        lines += ["", "[top1]", f"percent = {top1.percent}", f"size = {top1.size}", f'source = "{top1.source}"']
    for cost in published:
        lines += [
            "",
            "[[published]]",
            f"params_millions = {cost.params_millions}",
            f"gmacs = {cost.gmacs}",
            f"resolution = {cost.resolution}",
            f"size = {cost.size}",
            f"norms = {'true' if cost.norms else 'false'}",
            f'source = "{cost.source}"',
        ]
    return "\n".join(lines) + "\n"


def family_of(name: str) -> str:
    """The family that a name says."""
    if "dinov2" in name:
        return "dino"
    if "clip" in name:
        return "clip"
    return next((family for family in _FAMILIES if family in name), name.partition("_")[0])
