"""A model's graph for one size, without its weights: what can be known of it before anything runs."""

from __future__ import annotations

from pathlib import Path

import onnx

from backbench.models.external_data import read_bundle
from backbench.models.onnx_input import SKELETON_KEY, metadata, sized_model
from backbench.models.size_expression import InputSize
from backbench.models.skeleton import skeleton_for_size


def shaped_graph(path: Path, *, batch: int, height: int, width: int) -> onnx.ModelProto:
    """The graph of the skeleton or model in `path`, fixed to one size, with every intermediate shape.

    Large initialisers have a name, a type and a shape, but no numbers. Raises InvalidModel for a file that holds no
    model, and ShapeMismatch, saying what is taken, for a size that its graph does not take.
    """
    model = read_bundle(path).model
    if SKELETON_KEY in metadata(model):
        model, _, _ = skeleton_for_size(model, path, InputSize(batch, height, width))
    return sized_model(model, path, batch=batch, height=height, width=width)
