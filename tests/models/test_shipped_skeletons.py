"""Every skeleton that Backbench ships: small, without traces, right at the sizes of its recipe, sound inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import pytest
from numpy.typing import NDArray

from backbench.domain.errors import ShapeMismatch
from backbench.models.catalog import names, recipe, skeleton_path
from backbench.models.graph import shaped_graph
from backbench.models.onnx_file import read_model
from backbench.models.onnx_input import inspect_input, metadata, model_facts
from backbench.models.random_weights import recipe_for
from backbench.models.recipe import SkeletonFile
from backbench.models.skeleton import is_skeleton, materialise, read_recipes

Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]
SMALLEST_NORMAL = np.finfo(np.float32).tiny
TRACES = (b"site-packages", b".py", b"/home", b"/work", b"/usr", b"/tmp", b"stack_trace", b"Users")

SKELETONS = [(name, file) for name in names() for file in recipe(name).skeletons]
SMALL = [
    ("mobilenetv3_small_100", 1, 96, 96), ("mobilenetv3_small_100", 3, 65, 32),
    ("vit_tiny_patch16_224", 1, 96, 96), ("vit_tiny_patch16_224", 2, 112, 80),
    ("edgenext_xx_small", 2, 64, 64), ("edgenext_xx_small", 1, 64, 96),
    ("efficientformerv2_s0", 1, 64, 64), ("efficientformerv2_s0", 2, 96, 64),
    ("mobilenetv4_hybrid_medium", 1, 64, 64), ("mobilenetv4_hybrid_medium", 1, 96, 64),
    ("fastvit_t8", 1, 64, 64), ("fastvit_t8", 2, 33, 70), ("ghostnet_100", 1, 64, 96), ("repvgg_a0", 2, 64, 40),
    ("resnet18", 2, 96, 129), ("vit_small_patch14_dinov2", 1, 56, 70), ("swin_tiny_patch4_window7_224", 1, 224, 224),
    ("swin_tiny_patch4_window7_224", 1, 256, 288),
]  # fmt: skip
"""A few of each kind, at sizes that take little time."""


def smallest(file: SkeletonFile) -> int:
    return -(-file.minimum // file.multiple_of) * file.multiple_of


def sizes(name: str, file: SkeletonFile) -> list[tuple[int, int]]:
    """The smallest of a skeleton, some that are not square, odd ones where it takes these, the default if it does."""
    side, step = smallest(file), file.multiple_of
    candidates = [(side, side), (side + step, side), (side, side + 5 * step), (side + 13 * step, side + 2 * step)]
    candidates.append(recipe(name).size)
    return [
        (height, width)
        for height, width in dict.fromkeys(candidates)
        if file.takes(height, width) and recipe(name).skeleton_for(height, width) == file.file
    ]


def output_shape(name: str, batch: int) -> tuple[int, ...]:
    """As the model states it."""
    (output,) = model_facts(read_model(skeleton_path(name)), skeleton_path(name))["outputs"]
    assert output["layout"] == "NC"
    return batch, output["channels"]


def check_numbers(name: str, batch: int, height: int, width: int, folder: Path, outputs: Outputs) -> None:
    """Every number that a model works out is finite, no denormal and of a usual size, and no result is a constant."""
    path = folder / "model.onnx"
    materialise(skeleton_path(name, (height, width)), path, batch=batch, height=height, width=width)
    model = onnx.load(path)
    known = [output.name for output in model.graph.output]
    between = [output for node in model.graph.node for output in node.output if output and output not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in between)
    image = np.random.default_rng(0).standard_normal((batch, 3, height, width), dtype=np.float32)
    results = outputs(model, image)
    assert results[0].shape == output_shape(name, batch)
    assert results[0].std() > 0.1
    for output, values in zip([*known, *between], results, strict=True):
        if values.dtype != np.float32:
            continue
        magnitude = np.abs(values)
        assert np.isfinite(values).all(), output
        assert not ((magnitude > 0) & (magnitude < SMALLEST_NORMAL)).any(), output
        assert magnitude.max() < 100, output
        assert values.size == 1 or np.ptp(values) > 0, output


@pytest.mark.parametrize(("name", "batch", "height", "width"), [entry for entry in SMALL if entry[0] in names()])
def test_no_number_in_a_materialised_skeleton_is_infinite_nan_or_denormal(
    name: str, batch: int, height: int, width: int, tmp_path: Path, outputs: Outputs
) -> None:
    check_numbers(name, batch, height, width, tmp_path, outputs)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "file"), SKELETONS)
def test_no_number_in_any_skeleton_is_infinite_nan_or_denormal(
    name: str, file: SkeletonFile, tmp_path: Path, outputs: Outputs
) -> None:
    check_numbers(name, 1, *sizes(name, file)[-1], tmp_path, outputs)


@pytest.mark.parametrize(("name", "file"), SKELETONS)
def test_every_skeleton_is_small_and_tells_nothing_of_where_it_was_made(name: str, file: SkeletonFile) -> None:
    path = skeleton_path(name).with_name(file.file)
    data = path.read_bytes()
    assert is_skeleton(path)
    assert len(data) < 250_000
    assert [trace for trace in TRACES if trace in data] == []


def test_all_skeletons_together_are_small_and_each_belongs_to_a_recipe() -> None:
    folder = skeleton_path("resnet50").parent
    found = {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix == ".onnx"}
    assert set(found) == {file.file for _, file in SKELETONS}
    assert sum(found.values()) < 3_000_000
    assert sum(found.values()) / len(found) < 80_000


@pytest.mark.parametrize(("name", "file"), SKELETONS)
def test_every_skeleton_states_what_it_stands_for(name: str, file: SkeletonFile) -> None:
    path, of = skeleton_path(name).with_name(file.file), recipe(name)
    contract, facts = inspect_input(path), model_facts(read_model(path), path)
    assert contract.preprocess == of.preprocess
    assert (contract.name, contract.dims, contract.dtype) == ("image", ("batch", 3, "height", "width"), "float")
    assert (facts["schema"], facts["name"], facts["tag"]) == ("backbench.model/1", name, of.timm_tag)
    assert (facts["licence"], facts["precision"]) == (of.licence, "fp32")
    assert facts["params"] == of.params
    assert facts["weights"].startswith("random:")
    assert facts["opset"] == contract.opset
    assert [output["name"] for output in facts["outputs"]] == [output.name for output in contract.outputs]
    assert 0.85 * of.params < contract.parameters < 1.05 * of.params


@pytest.mark.parametrize(("name", "file"), SKELETONS)
def test_the_batch_multiplies_what_depends_on_it_and_is_never_taken_for_a_side(name: str, file: SkeletonFile) -> None:
    """Between exports whose batch grows along with a side, one can be mistaken for the other: `56*n+53`."""
    _, _, sizes = read_recipes(read_model(skeleton_path(name).with_name(file.file)))
    for place, expression in sizes.places.items():
        assert len({"n" in term for term in expression.terms}) == 1, (place, str(expression))


@pytest.mark.parametrize(("name", "file"), SKELETONS)
def test_every_skeleton_works_at_the_sizes_that_its_recipe_names(name: str, file: SkeletonFile) -> None:
    path = skeleton_path(name).with_name(file.file)
    tried = sizes(name, file)
    assert (smallest(file), smallest(file)) in tried
    for height, width in tried:
        for batch in (1, 3):
            graph = shaped_graph(path, batch=batch, height=height, width=width).graph
            dims = [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim]
            assert tuple(dims) == output_shape(name, batch), (height, width)
            for value in graph.value_info:
                inner = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
                assert min(inner, default=1) > 0, (value.name, height, width)


@pytest.mark.parametrize(("name", "file"), SKELETONS)
def test_a_size_that_a_backbone_does_not_take_is_refused_with_what_it_takes(name: str, file: SkeletonFile) -> None:
    side, step = smallest(file), file.multiple_of
    wrong = {(1, side), (side, 1), (side + step // 2, side) if step > 1 else (0, side)}
    if file.maximum is not None:
        wrong.add((file.maximum, file.maximum + 1))
    for height, width in wrong:
        if any(other.takes(height, width) for other in recipe(name).skeletons):
            continue
        with pytest.raises(ShapeMismatch, match=f"{name} does not take {height}x{width}; it takes ") as error:
            skeleton_path(name, (height, width))
        text = str(error.value)
        assert all(str(other) in text for other in recipe(name).skeletons)
        assert "\n" not in text


@pytest.mark.parametrize(("name", "file"), SKELETONS)
def test_every_skeleton_keeps_its_recipes_last_and_its_gains_usual(name: str, file: SkeletonFile) -> None:
    skeleton = read_model(skeleton_path(name).with_name(file.file))
    assert [entry.key for entry in skeleton.metadata_props] == [
        "backbench.preprocess", "backbench.model", "backbench.skeleton",
    ]  # fmt: skip
    seed, recipes, _ = read_recipes(skeleton)
    assert seed == 0
    assert {kind.kind for kind in recipes.values()} >= {"weight", "offset"}
    largest = max(kind.gain for kind in recipes.values() if kind.kind == "offset")
    assert largest < recipe_for(np.full(1, 19.9), "offset", 1).gain * 1.01
    json.loads(metadata(skeleton)["backbench.model"])


@pytest.mark.parametrize(
    "name", [name for name in ("swin_tiny_patch4_window7_224", "edgenext_xx_small") if name in names()]
)
def test_a_materialised_skeleton_is_a_sound_model_with_every_file_of_its_recipe(name: str, tmp_path: Path) -> None:
    for file in recipe(name).skeletons:
        height, width = sizes(name, file)[0]
        path = tmp_path / file.file
        materialise(skeleton_path(name, (height, width)), path, batch=2, height=height, width=width)
        onnx.checker.check_model(str(path), full_check=True)
        assert inspect_input(path).dims == (2, 3, height, width)
        assert model_facts(read_model(path), path)["input"]["dims"] == [2, 3, height, width]
        assert not is_skeleton(path)
        path.unlink()
