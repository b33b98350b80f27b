"""The catalogue: what it lists, what it says when a name or a size is wrong, and that it agrees with its skeletons."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from backbench.domain.errors import ShapeMismatch, UnknownBackbone
from backbench.models import catalog
from backbench.models.catalog import names, recipe, skeleton_path
from backbench.models.graph import shaped_graph

FOUNDERS = {"mobilenetv3_large_100", "mobilenetv3_small_100", "resnet18", "resnet50", "vit_tiny_patch16_224"}


def test_the_backbones_are_listed_in_order() -> None:
    assert set(names()) >= FOUNDERS
    assert list(names()) == sorted(names())


@pytest.mark.parametrize("name", names())
def test_every_recipe_has_its_name_takes_its_default_size_and_has_skeletons_of_its_own(name: str) -> None:
    of = recipe(name)
    assert of.name == name
    of.check_size(*of.size)
    assert skeleton_path(name).is_file()
    for skeleton in of.skeletons:
        assert Path(skeleton.file).name == skeleton.file
        assert skeleton.file.split(".", maxsplit=1)[0] == name
        assert skeleton_path(name).with_name(skeleton.file).is_file()
    assert len({skeleton.file for skeleton in of.skeletons}) == len(of.skeletons)


@pytest.mark.parametrize("name", names())
def test_every_published_number_has_its_source_and_agrees_with_the_recipe(name: str) -> None:
    of = recipe(name)
    assert of.top1 is None or (of.top1.source and 50 < of.top1.percent < 95)
    for published in of.published:
        assert published.source
        assert published.params_millions == pytest.approx(of.params / 1e6, rel=0.1)


@pytest.mark.parametrize("name", names())
def test_every_recipe_states_the_multiply_adds_of_its_graph(name: str) -> None:
    of = recipe(name)
    assert _multiply_adds(skeleton_path(name), *of.size) / 1e9 == pytest.approx(of.gmacs, rel=0.002, abs=0.0006)


def test_a_misspelt_name_gets_the_closest_names_in_one_line() -> None:
    with pytest.raises(
        UnknownBackbone, match=r"no backbone is called 'Resnet-50'; did you mean .*resnet50.*\?"
    ) as error:
        recipe("Resnet-50")
    assert "\n" not in str(error.value)


def test_a_name_like_no_other_gets_the_list_and_the_other_way() -> None:
    with pytest.raises(UnknownBackbone, match=r"choose one of .*, or give the path of an \.onnx file"):
        recipe("zzz")


def test_a_name_that_leaves_the_folder_of_recipes_is_no_name() -> None:
    with pytest.raises(UnknownBackbone):
        recipe("../recipes/resnet50")


def test_a_size_has_the_skeleton_that_takes_it() -> None:
    for name in names():
        for file in recipe(name).skeletons:
            side = -(-file.minimum // file.multiple_of) * file.multiple_of
            assert skeleton_path(name, (side, side)).name == recipe(name).skeleton_for(side, side)
        assert skeleton_path(name, recipe(name).size) == skeleton_path(name)


def test_a_size_below_the_smallest_is_refused_with_what_is_taken() -> None:
    with pytest.raises(ShapeMismatch, match="resnet50 does not take 16x224; it takes any height and width from 32"):
        skeleton_path("resnet50", (16, 224))


def test_the_catalogue_loads_without_the_heavy_libraries() -> None:
    code = (
        f"import sys; from {catalog.__name__} import recipe, skeleton_path; skeleton_path('resnet50', (64, 64));"
        "print([m for m in ('onnx', 'numpy', 'PIL', 'torch', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _multiply_adds(path: Path, height: int, width: int) -> int:
    """Of the convolutions and matrix products, for one image."""
    graph = shaped_graph(path, batch=1, height=height, width=width).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.value_info, *graph.output]
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(_products(node, shapes) * math.prod(shapes[node.output[0]]) for node in graph.node)


def _products(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """How many products one number of the result takes."""
    if node.op_type == "Conv":
        return math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        return shapes[node.input[0]][-1]
    assert node.op_type not in ("ConvTranspose", "Einsum", "Attention")
    return 0
