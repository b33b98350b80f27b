"""How an image becomes a model's input: the part of a model that is not in its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]

_DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Resize the shorter side to `size / crop_ratio`, crop the centre, scale to 0..1, normalise per channel (RGB)."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"
    crop_ratio: float = 0.875

    @property
    def digest(self) -> str:
        """A short digest; equal for models that are fed alike."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGEST_DIGITS]


IMAGENET_DEFAULT = Preprocess()
"""ImageNet statistics, bicubic, crop 0.875: assumed, and said so, for a model file that does not state its own."""
