"""A skeleton stands for what an export of its size would give, whether that size was exported for it or not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import pytest

from backbench.controller.analysis.graph import GraphAnalysis, analyse
from backbench.controller.export import skeleton_making
from backbench.controller.export.request import ExportRequest
from backbench.controller.export.size_fit import CELLS, Sample
from backbench.controller.export.skeleton_making import make_skeleton, run_by_onnxruntime, sample_sizes
from backbench.models import catalog
from backbench.models.graph import shaped_graph
from backbench.models.recipe import Recipe, SkeletonFile
from backbench.models.size_expression import InputSize, parse_expression
from backbench.models.skeleton import is_skeleton

# What torch says of itself while it exports is not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")

FILES = [(name, file) for name in catalog.names() for file in catalog.recipe(name).skeletons]


def costs(model: onnx.ModelProto) -> tuple[Any, ...]:
    """What the two must have in common."""
    analysis: GraphAnalysis = analyse(model)
    weights = Counter(
        (tensor.data_type, tuple(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    shapes = [operator.output_shape for operator in analysis.operators]
    return (
        dict(analysis.histogram),
        [(output.name, output.shape) for output in analysis.outputs],
        analysis.macs,
        analysis.parameters,
        weights,
        shapes,
    )


def of_export(model: onnx.ModelProto, size: InputSize, path: Path) -> tuple[Any, ...]:
    path.write_bytes(model.SerializeToString())
    return costs(shaped_graph(path, batch=size.batch, height=size.height, width=size.width))


def of_skeleton(name: str, size: InputSize) -> tuple[Any, ...]:
    path = catalog.skeleton_path(name, (size.height, size.width))
    return costs(shaped_graph(path, batch=size.batch, height=size.height, width=size.width))


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", InputSize(1, 64, 64)), ("vit_tiny_patch16_224", InputSize(2, 90, 117))]
)
def test_a_skeleton_costs_what_a_fresh_export_costs(
    name: str, size: InputSize, fresh: Callable[[ExportRequest], Any], tmp_path: Path
) -> None:
    exported = fresh(ExportRequest(name, size.height, size.width, size.batch))
    assert of_skeleton(name, size) == of_export(exported.onnx, size, tmp_path / "fresh.onnx")


def other_size(name: str, file: SkeletonFile) -> InputSize:
    """A size of this file that it was not made from, with another batch, the sides unlike and as odd as they may be."""
    of, step = catalog.recipe(name), file.multiple_of
    if file.maximum is not None:
        return InputSize(4, file.minimum, file.minimum)
    made = {(size.height, size.width) for size in sample_sizes(of, file)}
    odd = 7 if step == 1 else 0
    smallest = -(-max(file.minimum, 3 * step if step < 100 else 0) // step) * step
    sides = [smallest + odd + place * max(step, 19) for place in range(1, 12)]
    pairs = ((high, wide) for high, wide in itertools.product(sides, sides) if high != wide)
    return next(
        InputSize(4, *pair)
        for pair in pairs
        if pair not in made and file.takes(*pair) and of.skeleton_for(*pair) == file.file
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "file"), FILES, ids=[file.file for _, file in FILES])
def test_every_skeleton_costs_what_a_fresh_export_costs(
    name: str, file: SkeletonFile, timm: Any, tmp_path: Path
) -> None:
    from backbench.controller.export.torch_export import onnx_from_torch
    from backbench.controller.export.torch_model import torch_model

    own = catalog.recipe(name).size
    sizes = [other_size(name, file)]
    if catalog.recipe(name).skeleton_for(*own) == file.file:
        sizes.append(InputSize(1, *own))
    for size in sizes:
        request = ExportRequest(name, size.height, size.width, size.batch)
        made = onnx_from_torch(torch_model(timm, request), request)
        assert of_skeleton(name, size) == of_export(made, size, tmp_path / "fresh.onnx"), size


@pytest.mark.parametrize(("name", "file"), FILES, ids=[file.file for _, file in FILES])
def test_every_skeleton_is_there_and_small(name: str, file: SkeletonFile) -> None:
    path = catalog.skeleton_path(name).parent / file.file
    assert is_skeleton(path)
    assert path.stat().st_size < 300_000


def test_all_skeletons_together_are_small() -> None:
    paths = {catalog.skeleton_path(name).parent / file.file for name, file in FILES}
    assert sum(path.stat().st_size for path in paths) < 3_000_000


def one_a_class() -> dict[str, tuple[str, SkeletonFile]]:
    """A file for each set of sizes that files are made from."""
    found: dict[tuple[Any, ...], tuple[str, SkeletonFile]] = {}
    for name, file in FILES:
        if file.maximum is None:
            key = (*sample_sizes(catalog.recipe(name), file), file.minimum, file.multiple_of)
            found.setdefault(key, (name, file))
    return {file.file: (name, file) for name, file in found.values()}


@pytest.mark.parametrize(("name", "file"), one_a_class().values(), ids=one_a_class().keys())
def test_the_sizes_that_are_exported_tell_one_length_from_another(name: str, file: SkeletonFile) -> None:
    """Where two expressions are equal at all of these sizes, they are so at every size that the file takes."""
    of = catalog.recipe(name)
    sizes = sample_sizes(of, file)
    assert len(sizes) >= 3
    assert sizes[0].batch == 1
    assert all(of.skeleton_for(size.height, size.width) == file.file for size in sizes)
    sides = range(file.minimum, file.minimum + 1500)
    taken = [InputSize(1, side, side) for side in sides if file.takes(side, side)]
    variables = [f"{side}{cell}" for cell in CELLS for side in "hHwW"]
    here = {text: [parse_expression(text).value(size) for size in sizes] for text in variables}
    everywhere = {text: [parse_expression(text).value(size) for size in taken] for text in variables}
    for one, other in itertools.permutations(variables, 2):
        factor = here[one][0] // max(here[other][0], 1)
        if one[0].lower() == other[0].lower() and here[one] == [factor * length for length in here[other]]:
            assert everywhere[one] == [factor * length for length in everywhere[other]], (one, factor, other)
    batches = [size.batch for size in sizes]
    for text, lengths in here.items():
        assert len(set(lengths)) == 1 or not on_a_line(batches, lengths), f"{text} grows along with the batch"


def on_a_line(xs: list[int], ys: list[int]) -> bool:
    return all((x - xs[0]) * (ys[1] - ys[0]) == (xs[1] - xs[0]) * (y - ys[0]) for x, y in zip(xs, ys, strict=True))


def recipe_of(*files: SkeletonFile, size: tuple[int, int] = (224, 224)) -> Recipe:
    return Recipe(
        name="test_resnet",
        timm_tag="r160_in1k",
        family="resnet",
        licence="apache-2.0",
        params=471_000,
        gmacs=0.1,
        size=size,
        preprocess=catalog.recipe("resnet18").preprocess,
        skeletons=files,
    )


def test_a_file_for_one_size_is_made_from_batches_alone() -> None:
    file = SkeletonFile("one.onnx", 300, maximum=300)
    sizes = sample_sizes(recipe_of(file, size=(300, 300)), file)
    assert sizes == [InputSize(1, 300, 300), InputSize(2, 300, 300), InputSize(3, 300, 300)]


def test_a_file_for_multiples_is_made_from_sizes_that_are_its_own() -> None:
    fixed = SkeletonFile("224.onnx", 224, maximum=224)
    windows, padded = SkeletonFile("windows.onnx", 448, 224), SkeletonFile("padded.onnx", 256, 32)
    of = recipe_of(fixed, windows, padded)
    for file in (windows, padded):
        sizes = sample_sizes(of, file)
        assert (sizes[0].height, sizes[0].width) == (file.minimum, file.minimum)
        assert len({size.height for size in sizes}) > 2
        assert {of.skeleton_for(size.height, size.width) for size in sizes} == {file.file}


def convolutions(size: InputSize, reshaped: bool) -> onnx.ModelProto:
    """An export of two convolutions; reshaped, it holds a number that is right for one batch only."""
    image = [size.batch, 3, size.height, size.width]
    rng = np.random.default_rng(1)
    tensors = {"first": rng.standard_normal((16, 3, 3, 3)), "second": rng.standard_normal((10, 16, 1, 1))}
    nodes = [
        oh.make_node("Conv", ["image", "first"], ["a"], strides=[2, 2], pads=[1] * 4),
        oh.make_node("GlobalAveragePool", ["a"], ["b"]),
        oh.make_node("Conv", ["b", "second"], ["c" if reshaped else "logits"]),
    ]
    shape = [onh.from_array(np.array([size.batch, 10], np.int64), "shape")]
    if reshaped:
        nodes.append(oh.make_node("Reshape", ["c", "shape"], ["logits"]))
    graph = oh.make_graph(
        nodes,
        "convolutions",
        [oh.make_tensor_value_info("image", onnx.TensorProto.FLOAT, image)],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [size.batch, 10, *([] if reshaped else [1, 1])])],
        [onh.from_array(value.astype(np.float32), name) for name, value in tensors.items()] + shape * reshaped,
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize(("reshaped", "enough"), [(False, 2), (True, 4)])
def test_a_skeleton_is_made_of_as_many_exports_as_it_needs(
    reshaped: bool, enough: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[InputSize] = []

    def sample(timm: Any, of: Recipe, size: InputSize) -> Sample:  # noqa: ARG001
        exported.append(size)
        return Sample(size, convolutions(size, reshaped))

    monkeypatch.setattr(skeleton_making, "_sample", sample)
    file = SkeletonFile("small.onnx", 64, 32)
    of = recipe_of(file, size=(64, 64))
    made = make_skeleton(None, of, file, tmp_path / "small.onnx")
    assert exported == sample_sizes(of, file)[:enough]
    assert (tmp_path / "small.onnx").read_bytes() == made.SerializeToString(deterministic=True)
    assert is_skeleton(tmp_path / "small.onnx")
    dims = [dim.dim_param or dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    analysis = analyse(shaped_graph(tmp_path / "small.onnx", batch=5, height=96, width=160))
    assert (analysis.input_shape, analysis.outputs[0].shape) == ((5, 3, 96, 160), (5, 10) + (1, 1) * (not reshaped))
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_one_operator_is_run_as_it_is() -> None:
    values = {name: oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2]) for name in "ay"}
    graph = oh.make_graph(
        [oh.make_node("MatMul", ["a", "b"], ["y"])],
        "one",
        [values["a"]],
        [values["y"]],
        [onh.from_array(np.eye(2, dtype=np.float32), "b")],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=9)
    image = np.array([[1, 2], [3, 4]], np.float32)
    assert np.array_equal(run_by_onnxruntime(model, {"a": image})[0], image)
