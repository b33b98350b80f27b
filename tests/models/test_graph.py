"""A graph for one size without its weights: the same for a skeleton and for a model, and refusals that say what is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from backbench.domain.errors import InvalidModel, ShapeMismatch
from backbench.models.catalog import skeleton_path
from backbench.models.graph import shaped_graph
from backbench.models.skeleton import materialise, skeleton_from_onnx

Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]
SmallModel = Callable[[float], onnx.ModelProto]


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def test_a_skeleton_and_its_model_have_the_same_graph(tmp_path: Path) -> None:
    skeleton = skeleton_path("vit_tiny_patch16_224")
    materialise(skeleton, tmp_path / "m.onnx", batch=2, height=64, width=48)
    first = shaped_graph(skeleton, batch=2, height=64, width=48)
    second = shaped_graph(tmp_path / "m.onnx", batch=2, height=64, width=48)
    assert first.graph.node == second.graph.node
    assert shapes(first) == shapes(second)
    assert [list(each.dims) for each in first.graph.initializer] == [
        list(each.dims) for each in second.graph.initializer
    ]


def test_every_shape_is_the_one_that_the_model_gives_when_it_runs(tmp_path: Path, outputs: Outputs) -> None:
    skeleton = skeleton_path("edgenext_xx_small")
    graph = shaped_graph(skeleton, batch=2, height=64, width=96)
    materialise(skeleton, tmp_path / "m.onnx", batch=2, height=64, width=96)
    model = onnx.load(tmp_path / "m.onnx")
    between = [output for node in model.graph.node for output in node.output if output != "logits"]
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in between)
    results = outputs(model, np.zeros((2, 3, 64, 96), np.float32))
    assert len(between) > 250
    assert {name: shapes(graph)[name] for name in ["logits", *between]} == {
        name: list(result.shape) for name, result in zip(["logits", *between], results, strict=True)
    }


def test_large_weights_have_no_numbers_and_small_or_whole_ones_keep_theirs(
    small_model: SmallModel, tmp_path: Path
) -> None:
    whole, skeleton = tmp_path / "m.onnx", tmp_path / "s.onnx"
    whole.write_bytes(small_model(0.0).SerializeToString())
    skeleton.write_bytes(skeleton_from_onnx(small_model(0.0)).SerializeToString())
    for path in (whole, skeleton):
        graph = shaped_graph(path, batch=1, height=16, width=32).graph
        having = {tensor.name: bool(tensor.raw_data) for tensor in graph.initializer}
        assert not having["conv.weight"]
        assert not having["head.weight"]
        assert having["conv.bias"]
        assert {tensor.name: list(tensor.dims) for tensor in graph.initializer}["head.weight"] == [64, 500]
        assert shapes(onnx.ModelProto(graph=graph))["a"] == [1, 64, 16, 32]


@pytest.mark.parametrize("skeleton", [True, False])
@pytest.mark.parametrize(("batch", "height", "width"), [(0, 16, 16), (1, 32, 16), (1, 16, -1)])
def test_a_size_that_is_not_taken_is_refused_with_what_is(
    skeleton: bool, batch: int, height: int, width: int, small_model: SmallModel, tmp_path: Path
) -> None:
    model = skeleton_from_onnx(small_model(0.0)) if skeleton else small_model(0.0)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ShapeMismatch, match="the model takes nx3x16xw") as error:
        shaped_graph(tmp_path / "m.onnx", batch=batch, height=height, width=width)
    assert "\n" not in str(error.value)


def test_a_size_at_which_the_graph_falls_apart_is_refused(token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "s.onnx").write_bytes(token_skeleton.SerializeToString())
    with pytest.raises(
        ShapeMismatch, match=r"does not work at 64x8, batch 1 \(0 is no length for .*'position', 1"
    ) as error:
        shaped_graph(tmp_path / "s.onnx", batch=1, height=64, width=8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"\xff\xd8\xff\xe0" * 50, b"hello world"])
def test_a_file_that_holds_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InvalidModel, match=r"m\.onnx: "):
        shaped_graph(tmp_path / "m.onnx", batch=1, height=16, width=16)


def test_the_graph_of_a_large_backbone_takes_no_more_memory_than_its_skeleton() -> None:
    graph = shaped_graph(skeleton_path("resnet50"), batch=64, height=1024, width=1024)
    assert shapes(graph)["logits"] == [64, 1000]
    assert graph.ByteSize() < 100_000
