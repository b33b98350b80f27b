"""Small graphs made by hand, and the catalogue's graphs at one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from backbench.controller.analysis.graph import GraphAnalysis, analyse
from backbench.models.catalog import skeleton_path
from backbench.models.graph import shaped_graph

Make = Callable[..., onnx.ModelProto]


@pytest.fixture(scope="session")
def make() -> Make:
    """A model from nodes: (operator, inputs, outputs, attributes); "-" is an absent input.

    `weights` are (shape, type) without data, `constants` lists of integers. The outputs' shapes are left to inference.
    """

    def made(
        nodes: Sequence[tuple[str, str, str, Mapping[str, Any]]],
        *,
        image: Sequence[int] = (1, 3, 32, 32),
        outputs: Sequence[str] = ("y",),
        weights: Mapping[str, tuple[Sequence[int], int]] | None = None,
        constants: Mapping[str, Sequence[int]] | None = None,
    ) -> onnx.ModelProto:
        tensors = [
            onnx.TensorProto(name=name, data_type=kind, dims=shape) for name, (shape, kind) in (weights or {}).items()
        ]
        tensors += [
            onnx.numpy_helper.from_array(np.array(values, np.int64), name) for name, values in (constants or {}).items()
        ]
        graph = onnx.helper.make_graph(
            [
                onnx.helper.make_node(
                    kind, ["" if name == "-" else name for name in given.split()], made.split(), **attributes
                )
                for kind, given, made, attributes in nodes
            ],
            "made",
            [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, image)],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
            tensors,
        )
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])

    return made


@pytest.fixture(scope="session")
def catalogue() -> Callable[[str, int], GraphAnalysis]:
    """The analysis of a backbone of the catalogue at a square size."""

    def analysed(name: str, side: int) -> GraphAnalysis:
        path = skeleton_path(name, (side, side))
        return analyse(shaped_graph(path, batch=1, height=side, width=side))

    return analysed
