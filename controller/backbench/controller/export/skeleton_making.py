"""Making a recipe's skeletons: exports at several sizes, what depends on the size, gains that keep numbers sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from backbench.controller.export.ort import import_ort
from backbench.controller.export.request import ExportRequest
from backbench.controller.export.size_fit import Sample, canonical, differences, sized_numbers
from backbench.controller.export.torch_export import onnx_from_torch
from backbench.controller.export.torch_model import torch_model
from backbench.models.calibration import calibrated
from backbench.models.recipe import Recipe, SkeletonFile
from backbench.models.size_expression import InputSize
from backbench.models.skeleton import skeleton_from_onnx
from backbench.models.whole_file import written_whole

_USUAL_SIDE = 224
_BATCHES = (1, 3, 2, 1)
"""They do not grow along with the sides, or one could be taken for the other."""
_OFFSETS = ((0, 0), (24, 113), (110, 37), (114, 108))
"""Pixels; from 224 on they tell the count of each kind of cell from multiples of every other."""
_STEPS = ((0, 0), (1, 3), (9, 2), (4, 12))
_LARGE_STEPS = ((0, 0), (1, 2), (2, 1), (3, 1))
_LARGE_STEP = 100
"""Pixels. The sides have to reach over several of the largest cells, or a padding looks like a straight line."""
_ENOUGH = 2
"""Exports that agree in everything show that nothing depends on the size."""


def make_skeleton(timm: Any, of: Recipe, file: SkeletonFile, destination: Path) -> onnx.ModelProto:
    """Write one of a recipe's skeletons. Raises InvalidModel where no one graph is right for all its sizes."""
    samples: list[Sample] = []
    for size in sample_sizes(of, file):
        samples.append(_sample(timm, of, size))
        if len(samples) == _ENOUGH and not any(True for _ in differences([sample.model for sample in samples])):
            break
    model = samples[0].model
    sizes = sized_numbers(samples)
    _open_dims(model)
    skeleton = calibrated(
        skeleton_from_onnx(model, sizes=sizes), height=_side(of, file), width=_side(of, file), run=run_by_onnxruntime
    )
    with written_whole(destination) as out:
        out.write(skeleton.SerializeToString(deterministic=True))
    return skeleton


def sample_sizes(of: Recipe, file: SkeletonFile) -> list[InputSize]:
    """The sizes that are exported: batches and sides in no simple proportion to each other, the first with batch 1."""
    side = _side(of, file)
    if file.maximum is not None:
        return [InputSize(batch, side, side) for batch in (1, 2, 3)]
    if file.multiple_of == 1:
        pairs = [(side + high, side + wide) for high, wide in _OFFSETS]
    else:
        steps = _LARGE_STEPS if file.multiple_of >= _LARGE_STEP else _STEPS
        pairs = [(side + high * file.multiple_of, side + wide * file.multiple_of) for high, wide in steps]
        pairs = [pair for pair in pairs if of.skeleton_for(*pair) == file.file]
    return [InputSize(batch, *pair) for batch, pair in zip(_BATCHES, pairs, strict=False)]


def run_by_onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
    """One operator on one thread, so that the order of additions never changes."""
    ort = import_ort()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def _sample(timm: Any, of: Recipe, size: InputSize) -> Sample:
    request = ExportRequest(of.name, size.height, size.width, batch=size.batch)
    # A position embedding counts at its default size, and the weights that torch has here are in no skeleton.
    model = replace(torch_model(timm, request), params=of.params, weights_sha256=None)
    return Sample(size, canonical(onnx_from_torch(model, request)))


def _side(of: Recipe, file: SkeletonFile) -> int:
    """A usual size of this file: the default or 224 if it is for them, else its smallest."""
    for side in (min(of.size[0], _USUAL_SIDE), of.size[0]):
        if of.size[0] == of.size[1] and file.takes(side, side) and of.skeleton_for(side, side) == file.file:
            return side
    return -(-file.minimum // file.multiple_of) * file.multiple_of


def _open_dims(model: onnx.ModelProto) -> None:
    """Give batch, height and width of the input their names, and the batch of every output."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, name in ((dims[0], "batch"), (dims[2], "height"), (dims[3], "width")):
        dim.dim_param = name
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "batch"
