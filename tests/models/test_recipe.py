"""Recipes: what they say, which sizes they take, and how strictly they are read."""

from __future__ import annotations

from importlib.resources import files

import pytest

from backbench.domain.errors import InvalidArgument, ShapeMismatch
from backbench.models.recipe import PublishedCost, PublishedTop1, Recipe, SkeletonFile, recipe_from_toml

FILE = files("backbench.models").joinpath("recipes", "resnet50.toml").read_text(encoding="utf-8")
HEAD, _ = FILE.split("[[skeletons]]")
SKELETON = '[[skeletons]]\nfile = "resnet50.onnx"\nminimum = 32\n'
TOP1 = '[top1]\npercent = 80.1\nsize = 288\nsource = "a paper"\n'
PUBLISHED = """
[[published]]
params_millions = 25.6
gmacs = 4.1
resolution = 0.1
size = 224
norms = true
source = "another paper"
"""
RESNET = HEAD + SKELETON + TOP1 + PUBLISHED


def with_skeletons(*entries: str) -> Recipe:
    return recipe_from_toml(HEAD + "".join(f"[[skeletons]]\n{entry}\n" for entry in entries), "r.toml")


def test_a_recipe_is_read_whole() -> None:
    read = recipe_from_toml(RESNET, "r.toml")
    assert (read.name, read.params, read.size) == ("resnet50", 25_557_032, (224, 224))
    assert read.skeletons == (SkeletonFile("resnet50.onnx", minimum=32, multiple_of=1, maximum=None),)
    assert read.top1 == PublishedTop1(80.1, 288, "a paper")
    assert read.published == (PublishedCost(25.6, 4.1, 0.1, 224, norms=True, source="another paper"),)


def test_what_nobody_published_is_absent() -> None:
    read = recipe_from_toml(HEAD + SKELETON, "r.toml")
    assert (read.top1, read.published) == (None, ())


def test_every_published_count_is_kept_in_order() -> None:
    second = PUBLISHED.replace("true", "false").replace("25.6", "26")
    read = recipe_from_toml(RESNET + second, "r.toml")
    assert [(cost.params_millions, cost.norms) for cost in read.published] == [(25.6, True), (26.0, False)]


def test_a_size_below_the_smallest_is_refused_with_what_is_taken() -> None:
    with pytest.raises(ShapeMismatch, match="resnet50 does not take 16x224; it takes any height and width from 32 pix"):
        recipe_from_toml(RESNET, "r.toml").check_size(16, 224)


def test_a_size_that_is_no_multiple_is_refused_with_the_step() -> None:
    stepped = with_skeletons('file = "a.onnx"\nminimum = 32\nmultiple_of = 32')
    stepped.check_size(256, 320)
    for size in ((250, 320), (256, 300)):
        with pytest.raises(ShapeMismatch, match="multiples of 32 from 32 pixels up"):
            stepped.check_size(*size)


def test_a_fixed_backbone_takes_its_own_size_only() -> None:
    fixed = with_skeletons('file = "a.onnx"\nminimum = 224\nmaximum = 224')
    fixed.check_size(224, 224)
    for size in ((256, 256), (224, 256), (223, 224)):
        with pytest.raises(ShapeMismatch, match=r"it takes 224x224$"):
            fixed.check_size(*size)


def test_a_largest_size_is_refused_from_the_next_on() -> None:
    bounded = with_skeletons('file = "a.onnx"\nminimum = 32\nmaximum = 448')
    bounded.check_size(448, 32)
    with pytest.raises(ShapeMismatch, match="any height and width from 32 to 448 pixels"):
        bounded.check_size(449, 32)


def test_the_first_skeleton_that_takes_a_size_stands_for_it() -> None:
    several = with_skeletons(
        'file = "224.onnx"\nminimum = 224\nmaximum = 224',
        'file = "windows.onnx"\nminimum = 448\nmultiple_of = 224',
        'file = "padded.onnx"\nminimum = 256\nmultiple_of = 32',
    )
    taken = {size: several.skeleton_for(*size) for size in ((224, 224), (448, 672), (448, 256), (256, 320))}
    assert list(taken.values()) == ["224.onnx", "windows.onnx", "padded.onnx", "padded.onnx"]
    with pytest.raises(ShapeMismatch) as error:
        several.skeleton_for(224, 448)
    assert str(error.value) == (
        "resnet50 does not take 224x448; it takes 224x224, or any height and width that are multiples of 224 from 448"
        " pixels up, or any height and width that are multiples of 32 from 256 pixels up"
    )


@pytest.mark.parametrize("size", [(0, 0), (-32, -32), (0, 64), (-64, 64)])
def test_a_size_that_is_none_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeMismatch):
        recipe_from_toml(RESNET, "r.toml").check_size(*size)


def test_a_recipe_without_a_skeleton_for_its_default_size_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"r\.toml: no entry of 'skeletons' takes the default size"):
        with_skeletons('file = "a.onnx"\nminimum = 256')


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[top1]", "[top1]\ncolour = 1", r"r\.toml: unknown key 'top1\.colour'"),
        ("[preprocess]", "[sizes]\n[preprocess]", r"r\.toml: unknown key 'sizes'"),
        ("params = 25557032\n", "", r"r\.toml: missing key 'params'"),
        ("params = 25557032", "params = true", r"r\.toml: key 'params' must be a whole number"),
        ("params = 25557032", "params = 2.5", r"r\.toml: key 'params' must be a whole number"),
        ("params = 25557032", "params = 0", r"r\.toml: key 'params' must be a whole number"),
        ("gmacs = 4.1\n", "gmacs = inf\n", r"key 'published\.gmacs' must be a number above 0"),
        ("gmacs = 4.1\n", "gmacs = nan\n", r"key 'published\.gmacs' must be a number above 0"),
        ("gmacs = 4.1\n", "gmacs = true\n", r"key 'published\.gmacs' must be a number above 0"),
        ('"bicubic"', '"cubic"', r"key 'preprocess\.interpolation' must be one of bilinear, bicubic"),
        ("crop_ratio = 0.95", "crop_ratio = 1.5", r"key 'preprocess\.crop_ratio' must be .* at most 1"),
        ("[224, 224]", "[224]", r"key 'size' must be \[height, width\]"),
        ("[224, 224]", "[224, 0]", r"key 'size' must be \[height, width\]"),
        ("[0.229, 0.224, 0.225]", '[0.229, 0.224, "x"]', r"key 'preprocess\.std' must be three numbers"),
        ("[0.229, 0.224, 0.225]", "[0.229, 0.224, 0.0]", r"key 'preprocess\.std' must be three numbers above 0"),
        ("[0.229, 0.224, 0.225]", "[0.229, 0.224, inf]", r"key 'preprocess\.std' must be three numbers"),
        ("[0.485, 0.456, 0.406]", "[0.485, nan, 0.406]", r"key 'preprocess\.mean' must be three numbers"),
        ("[preprocess]", "[preprocess", r"r\.toml: not valid TOML"),
        ("[[skeletons]]", "[skeletons]", r"key 'skeletons' must be a list of tables"),
        (SKELETON, "", r"r\.toml: missing key 'skeletons'"),
        ('file = "resnet50.onnx"\n', "", r"r\.toml: missing key 'skeletons\.file'"),
        ('file = "resnet50.onnx"', 'file = ""', r"key 'skeletons\.file' must be a text"),
        ("minimum = 32", "minimum = 0", r"key 'skeletons\.minimum' must be a whole number"),
        ("minimum = 32", "minimum = 32\nmultiple_of = 0", r"key 'skeletons\.multiple_of' must be a whole number"),
        ("minimum = 32", "minimum = 32\nmaximum = 16", r"no entry of 'skeletons' takes the default size"),
        ("minimum = 32", "minimum = 32\nrule = 1", r"r\.toml: unknown key 'skeletons\.rule'"),
        ("percent = 80.1", "percent = 801", r"key 'top1\.percent' must be .* at most 100"),
        ("size = 288\n", "", r"r\.toml: missing key 'top1\.size'"),
        ('source = "a paper"\n', "", r"r\.toml: missing key 'top1\.source'"),
        ('source = "another paper"\n', "", r"r\.toml: missing key 'published\.source'"),
        ("norms = true", "norms = 1", r"key 'published\.norms' must be true or false"),
        ("resolution = 0.1", "resolution = 0", r"key 'published\.resolution' must be a number above 0"),
        ("[[published]]", "[published]", r"key 'published' must be a list of tables"),
    ],
)
def test_a_wrong_recipe_is_refused_naming_file_and_key(old: str, new: str, complaint: str) -> None:
    assert old in RESNET
    with pytest.raises(InvalidArgument, match=complaint) as error:
        recipe_from_toml(RESNET.replace(old, new), "r.toml")
    assert "\n" not in str(error.value)
