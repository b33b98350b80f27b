"""Weights for a torch module: drawn from a seed, fetched by timm, or read from the user's checkpoint."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from backbench.domain.errors import InvalidArgument, InvalidModel

_BRANCH_SCALES = ("gamma", "gamma_1", "gamma_2", "layer_scale", "layer_scale_1", "layer_scale_2")
_COMPILED = "_orig_mod."
_RESIZED = ("pos_embed", "relative_position_bias_table")
"""What timm fits to another input size when it loads a checkpoint."""
_NAMED_AT_MOST = 3
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


def awaken(model: Any, height: int, width: int, seed: int, images: Any = None) -> None:
    """Random weights with which every branch speaks, in place.

    An untrained network begins with branches that are switched off: their last normalisation has a scale of zero, or
    their layer scale is 1e-6. Neither a check of the export nor a quantizer would see them. Its biases are all 0 and
    its scales all 1: an exporter would keep one of each. Then batch normalisation gets the statistics of one batch, as
    training would leave it: of `images`, k x 3 x H x W, or of noise. A deep network is sound for the kind of images
    that it was normalised with; others it amplifies, rounding errors included.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            if norm.weight is not None and not norm.weight.any():
                norm.weight.uniform_(0.2, 0.5, generator=generator)
            norm.momentum = None
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in _BRANCH_SCALES and parameter.abs().max() < 1e-2:
                parameter.uniform_(0.1, 0.5, generator=generator)
            elif parameter.ndim == 1 and parameter.min() == parameter.max():
                parameter.add_(torch.empty_like(parameter).uniform_(-0.05, 0.05, generator=generator))
        if norms:
            model.train()
            noise = torch.randn(4, 3, height, width, generator=generator)
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # the order of additions, and so the last bit, hangs on their number
            try:
                model(noise if images is None else torch.from_numpy(images))
            finally:
                torch.set_num_threads(threads)
    model.eval()


def digest_of(model: Any) -> str:
    """SHA-256 over a module's tensors in the order of their names: the same weights have the same digest."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def require_pretrained(timm: Any, name: str) -> None:
    """Raise InvalidArgument where timm states no pretrained weights, or they are neither here nor can be fetched."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise InvalidArgument(f"timm has no pretrained weights of {name}; take --weights random or --weights FILE")
    if not (config.hf_hub_id and not config.file):
        return
    from huggingface_hub import constants, try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files):
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        return
    if getproxies():
        return  # names are looked up beyond it
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError as error:
        raise unreachable(name, "no network") from error


def unreachable(name: str, cause: str) -> InvalidArgument:
    """Pretrained weights that are not to be had, and what to do."""
    return InvalidArgument(
        f"the pretrained weights of {name} are not on this machine and cannot be fetched ({cause}); connect, or give a"
        " checkpoint with --weights FILE.safetensors, or take --weights random, which has the same speed"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The tensors in a .safetensors or torch checkpoint, by name; no code in it is run. Raises InvalidModel."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return _unwrapped_names(load_file(str(path)))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except Exception as error:
        words = " ".join(str(error).split())[:120]
        raise InvalidModel(f"{path}: not a checkpoint of tensors ({words}); save the state dict alone") from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded or not all(torch.is_tensor(value) for value in loaded.values()):
        raise InvalidModel(f"{path}: not a checkpoint of tensors; save the module's state_dict()")
    return _unwrapped_names(loaded)


def _unwrapped_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """As timm reads them: without what parallel training and compilation put before each name."""
    names = {name: name.removeprefix(_COMPILED).removeprefix("module.").removeprefix(_COMPILED) for name in tensors}
    return {names[name]: value for name, value in tensors.items()}


def check_keys(path: Path, name: str, checkpoint: Mapping[str, Any], model: Any) -> None:
    """Raise InvalidModel, saying which and how many keys differ, unless the checkpoint is one of this architecture."""
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    missing = sorted(key for key in wanted.keys() - checkpoint.keys() if not key.endswith("num_batches_tracked"))
    unknown = sorted(checkpoint.keys() - wanted.keys())
    shapes = sorted(
        key
        for key in wanted.keys() & checkpoint.keys()
        if tuple(checkpoint[key].shape) != wanted[key] and key.rpartition(".")[2] not in _RESIZED
    )
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:_NAMED_AT_MOST])}{', ...' if len(keys) > _NAMED_AT_MOST else ''})"
        for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if keys
    ]
    if parts:
        raise InvalidModel(
            f"{path} is no checkpoint of {name}: of {len(wanted)} tensors {'; '.join(parts)}; name its architecture"
        )
