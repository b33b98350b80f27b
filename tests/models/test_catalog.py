"""The catalogue: what it lists, how strictly it reads a recipe, what it says when a name or a size is wrong."""

from __future__ import annotations

import math
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import onnx
import onnx.shape_inference
import pytest

from backbench.domain.errors import InvalidArgument, ShapeMismatch, UnknownBackbone
from backbench.models.catalog import names, recipe, skeleton_path
from backbench.models.onnx_file import read_model
from backbench.models.onnx_input import frame_for_size, inspect_input
from backbench.models.recipe import recipe_from_toml
from backbench.models.skeleton import is_skeleton

RESNET = files("backbench.models").joinpath("recipes", "resnet50.toml").read_text(encoding="utf-8")


def test_the_first_two_backbones_are_listed_in_order() -> None:
    assert set(names()) >= {"mobilenetv3_large_100", "resnet50"}
    assert list(names()) == sorted(names())


@pytest.mark.parametrize("name", names())
def test_every_recipe_agrees_with_its_name_and_its_skeleton(name: str) -> None:
    of = recipe(name)
    contract = inspect_input(skeleton_path(name))
    assert of.name == name
    assert is_skeleton(skeleton_path(name))
    assert contract.preprocess == of.preprocess
    assert 0.97 * of.params < contract.parameters <= of.params
    of.check_size(*of.size)


@pytest.mark.parametrize("name", names())
def test_every_recipe_states_the_multiply_adds_of_its_graph(name: str) -> None:
    of = recipe(name)
    assert _multiply_adds(skeleton_path(name), *of.size) / 1e9 == pytest.approx(of.gmacs, rel=0.02)


def test_a_misspelt_name_gets_the_closest_names_in_one_line() -> None:
    with pytest.raises(UnknownBackbone, match=r"no backbone is called 'Resnet-50'; did you mean resnet50\?") as error:
        recipe("Resnet-50")
    assert "\n" not in str(error.value)


def test_a_name_like_no_other_gets_the_list_and_the_other_way() -> None:
    with pytest.raises(UnknownBackbone, match=r"choose one of .*resnet50.*, or give the path of an \.onnx file"):
        recipe("zzz")


def test_a_size_below_the_smallest_is_refused_with_what_is_taken() -> None:
    with pytest.raises(ShapeMismatch, match="resnet50 does not take 16x224; it takes any height and width from 32"):
        recipe("resnet50").check_size(16, 224)


def test_a_size_that_is_no_multiple_is_refused_with_the_step() -> None:
    stepped = recipe_from_toml(RESNET.replace("multiple_of = 1", "multiple_of = 32"), "r.toml")
    stepped.check_size(256, 320)
    with pytest.raises(ShapeMismatch, match="multiples of 32 from 32 pixels up"):
        stepped.check_size(250, 320)


def test_a_fixed_backbone_takes_its_own_size_only() -> None:
    fixed = recipe_from_toml(RESNET.replace('"any"', '"fixed"'), "r.toml")
    fixed.check_size(224, 224)
    with pytest.raises(ShapeMismatch, match="224x224 only"):
        fixed.check_size(256, 256)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[sizes]", "[sizes]\ncolour = 1", r"r\.toml: unknown key 'sizes\.colour'"),
        ("params = 25557032\n", "", r"r\.toml: missing key 'params'"),
        ("params = 25557032", "params = true", r"r\.toml: key 'params' must be a whole number"),
        ("params = 25557032", "params = 2.5", r"r\.toml: key 'params' must be a whole number"),
        ('"bicubic"', '"cubic"', r"key 'preprocess\.interpolation' must be one of bilinear, bicubic"),
        ("crop_ratio = 0.95", "crop_ratio = 1.5", r"key 'preprocess\.crop_ratio' must be .* at most 1"),
        ("[224, 224]", "[224]", r"key 'size' must be \[height, width\]"),
        ("[0.229, 0.224, 0.225]", '[0.229, 0.224, "x"]', r"key 'preprocess\.std' must be three numbers"),
        ("[sizes]", "[sizes", r"r\.toml: not valid TOML"),
        ("[sizes]", "[top1]\npercent = 80.1\n[sizes]", r"r\.toml: missing key 'top1\.source'"),
    ],
)
def test_a_wrong_recipe_is_refused_naming_file_and_key(old: str, new: str, complaint: str) -> None:
    assert old in RESNET
    with pytest.raises(InvalidArgument, match=complaint) as error:
        recipe_from_toml(RESNET.replace(old, new), "r.toml")
    assert "\n" not in str(error.value)


def test_a_published_accuracy_is_read_with_its_source() -> None:
    read = recipe_from_toml(RESNET + '\n[top1]\npercent = 80.1\nsource = "a paper"\n', "r.toml")
    assert read.top1 is not None
    assert (read.top1.percent, read.top1.source) == (80.1, "a paper")


def test_the_catalogue_loads_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from backbench.models.catalog import recipe; recipe('resnet50');"
        "print([m for m in ('onnx', 'numpy', 'PIL', 'torch', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _multiply_adds(path: Path, height: int, width: int) -> int:
    """Of the convolutions and matrix products, for one image."""
    model = read_model(path)
    frame = frame_for_size(model, path, batch=1, height=height, width=width)
    frame.graph.initializer.extend(model.graph.initializer)
    graph = onnx.shape_inference.infer_shapes(frame, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.output]
    }
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            _, _, rows, columns = shapes[node.output[0]]
            total += rows * columns * math.prod(weights[node.input[1]])
        elif node.op_type == "Gemm":
            total += math.prod(weights[node.input[1]])
    return total
