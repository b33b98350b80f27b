"""A timm backbone as the torch module that is exported: at its size, with its weights, in deploy form."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from backbench.controller.export.request import PRETRAINED, RANDOM, ExportRequest
from backbench.controller.export.torch_weights import (
    awaken,
    check_keys,
    digest_of,
    read_checkpoint,
    require_pretrained,
    unreachable,
)
from backbench.domain.errors import InvalidArgument, ShapeMismatch, UnknownBackbone
from backbench.domain.preprocess import Interpolation, Preprocess
from backbench.models import catalog

_ONE_SIZE = "{} cannot have a dynamic size: its layers are laid out for one; export one file a size"
_USUAL_STEP = 32
"""Pixels: the largest stride of the usual backbones."""


Images = Callable[[Preprocess, int, int], NDArray[np.float32]]
"""Makes a batch of images for a preprocessing, a height and a width."""


@dataclass(frozen=True, slots=True)
class OutputFact:
    """What is known of one output: `stride` None for logits; `layout` "NC", "NCHW" or "NHWC"."""

    name: str
    kind: str
    channels: int
    layout: str
    stride: int | None = None
    module: str | None = None


@dataclass(frozen=True)
class TorchModel:
    """A module in evaluation mode and deploy form, and what has to be said of it.

    `params` counts the trainable numbers before the deploy form was made, as they are published. Sides that differ
    from this size's by multiples of `step` pixels are as sound as its own.
    """

    module: Any
    name: str
    tag: str | None
    licence: str | None
    height: int
    width: int
    params: int
    weights: str
    weights_sha256: str | None
    preprocess: Preprocess
    outputs: tuple[OutputFact, ...]
    step: int = _USUAL_STEP


def torch_model(timm: Any, request: ExportRequest, images: Images | None = None) -> TorchModel:
    """The module that a request asks for. Random weights are normalised with `images`, or with noise.

    Raises UnknownBackbone (with the closest names), ShapeMismatch, InvalidArgument where pretrained weights are not to
    be had, and InvalidModel for a checkpoint of another architecture.
    """
    request = replace(request, name=_tagged(request.name))
    config = known_config(timm, request.name)
    preprocess = preprocess_of(config)
    height = request.height or config.input_size[1]
    width = request.width or config.input_size[2]
    arguments: dict[str, Any] = {}
    if config.fixed_input_size and (height, width) != tuple(config.input_size[1:]):
        arguments["img_size"] = (height, width)
    if "size" in request.dynamic and config.fixed_input_size:
        arguments["dynamic_img_size"] = True
    if request.features:
        arguments["features_only"] = True
    module = _with_weights(timm, request, config, arguments)
    if "dynamic_img_size" in arguments and not _resamples_positions(module):
        raise InvalidArgument(_ONE_SIZE.format(config.architecture))
    params = sum(parameter.numel() for parameter in module.parameters())
    step = _step_of(module) if config.fixed_input_size else _USUAL_STEP
    tried = partial(_try_size, config.architecture, height, width, tuple(config.input_size[1:]), step)
    if request.weights == RANDOM:
        normalised_with = None if images is None else images(preprocess, height, width)
        tried(lambda: awaken(module, height, width, request.seed, normalised_with))
    module.eval()
    weights_sha256 = digest_of(module)
    from timm.utils.model import reparameterize_model

    known = request.weights in (RANDOM, PRETRAINED)  # of a user's own weights timm's statements do not hold
    module = reparameterize_model(module).eval()
    outputs = tried(lambda: _outputs(module, height, width, request.features))
    return TorchModel(
        module=module,
        name=config.architecture,
        tag=(config.tag or None) if known else None,
        licence=(config.license or None) if known else None,
        height=height,
        width=width,
        params=params,
        weights=f"{RANDOM}:{request.seed}" if request.weights == RANDOM else _origin(request.weights),
        weights_sha256=weights_sha256,
        preprocess=preprocess,
        outputs=outputs,
        step=step,
    )


def _tagged(name: str) -> str:
    """A bare name of the catalogue with the tag of its recipe, whatever timm's default is by now."""
    return f"{name}.{catalog.recipe(name).timm_tag}" if name in catalog.names() else name


def known_config(timm: Any, name: str) -> Any:
    """timm's own statements on `name` or `name.tag`; raises UnknownBackbone with the closest names."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture.lower(), timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() has them all"
        raise UnknownBackbone(f"timm has no model called '{name}'; {hint}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the backbone is known, its tag is not
        config = None
    if config is None or (tag and config.tag != tag):
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
        known = f"it has {', '.join(tags[:6])}" if tags else "it has none"
        raise UnknownBackbone(f"{architecture} has no tag '{tag}'; {known}")
    return config


def preprocess_of(config: Any) -> Preprocess:
    """How timm turns an image into the input of this tag. Raises InvalidArgument for ways that devices do not know."""
    known: dict[str, Interpolation] = {name: name for name in get_args(Interpolation)}
    interpolation = known.get(config.interpolation)
    if interpolation is None or (config.crop_mode or "center") != "center":
        raise InvalidArgument(
            f"{config.architecture} is fed with crop mode {config.crop_mode} and {config.interpolation} interpolation,"
            " which Backbench does not do; take another backbone or tag"
        )
    return Preprocess(tuple(config.mean), tuple(config.std), interpolation, config.crop_pct or 0.875)


def _with_weights(timm: Any, request: ExportRequest, config: Any, arguments: dict[str, Any]) -> Any:
    import torch

    torch.manual_seed(request.seed)
    if request.weights == RANDOM:
        return _created(timm, request.name, arguments)
    if request.weights == PRETRAINED:
        require_pretrained(timm, request.name)
        try:
            return _created(timm, request.name, {**arguments, "pretrained": True})
        except OSError as error:
            raise unreachable(request.name, (str(error).splitlines() or ["no answer"])[0][:120]) from error
    path = Path(request.weights)
    checkpoint = read_checkpoint(path)
    classes = _class_count(config, checkpoint)
    check_keys(path, config.architecture, checkpoint, timm.create_model(request.name, num_classes=classes))
    overlay = {"file": str(path), "num_classes": classes}
    return _created(
        timm,
        request.name,
        {**arguments, "pretrained": True, "num_classes": classes, "pretrained_cfg_overlay": overlay},
    )


def _created(timm: Any, name: str, arguments: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, **arguments)
    except TypeError as error:
        if "dynamic_img_size" in arguments:
            raise InvalidArgument(_ONE_SIZE.format(name.partition(".")[0])) from error
        raise
    except (AssertionError, ValueError) as error:
        if "img_size" not in arguments:
            raise
        height, width = arguments["img_size"]
        words = " ".join(str(error).split())[:120]
        architecture = name.partition(".")[0]
        raise ShapeMismatch(f"{architecture} does not take {height}x{width} ({words}); try multiples of 32") from error


def _resamples_positions(module: Any) -> bool:
    """Whether it is a plain vision transformer, whose position embedding is all that depends on the size."""
    return any(type(each).__name__ == "VisionTransformer" for each in module.modules())


def _class_count(config: Any, checkpoint: dict[str, Any]) -> int:
    heads = [config.classifier] if isinstance(config.classifier, str) else list(config.classifier or ())
    for head in heads:
        weight = checkpoint.get(f"{head}.weight")
        if weight is not None:
            return int(weight.shape[0])
    return int(config.num_classes)


def _step_of(module: Any) -> int:
    """The number of pixels, 32 at least, in which whole patches fit."""
    patches = (getattr(each, "patch_size", None) for each in module.modules())
    patch = next((max(size) for size in patches if isinstance(size, tuple)), 1)
    return int(patch * math.ceil(_USUAL_STEP / patch))


def _try_size(name: str, height: int, width: int, own: tuple[int, int], step: int, action: Any) -> Any:
    """Run `action`; what torch says of a size that does not fit becomes a ShapeMismatch."""
    try:
        return action()
    except (RuntimeError, AssertionError, ValueError) as error:
        if ran_out_of_memory(error):
            raise MemoryError from error
        words = " ".join(str(error).split())[:120]
        raise ShapeMismatch(
            f"{name} does not work at {height}x{width} ({words}); try its own {own[0]}x{own[1]}, or multiples of {step}"
        ) from error


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's way, or Python's, of saying that memory ran out."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error)


def _outputs(module: Any, height: int, width: int, features: bool) -> tuple[OutputFact, ...]:
    import torch

    with torch.no_grad():
        produced = module(torch.zeros(1, 3, height, width))
    if not features:
        kind = "logits" if getattr(module, "num_classes", 0) else "embedding"
        return (OutputFact(kind, kind, int(produced.shape[1]), "NC"),)
    layout = str(getattr(module, "output_fmt", "NCHW") or "NCHW").rpartition(".")[2]
    info = module.feature_info
    return tuple(
        OutputFact(f"features_{place}_s{stride}", "feature_map", channels, layout, stride, name)
        for place, (stride, channels, name) in enumerate(
            zip(info.reduction(), info.channels(), info.module_name(), strict=True)
        )
    )


def _origin(weights: str) -> str:
    return PRETRAINED if weights == PRETRAINED else "file"
