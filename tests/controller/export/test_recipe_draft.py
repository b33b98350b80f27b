"""The recipes of the catalogue: as timm states them, and their costs beside what others published."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from backbench.controller.analysis.graph import analyse
from backbench.controller.export.recipe_draft import family_of, recipe_text
from backbench.controller.export.request import ExportRequest
from backbench.controller.export.torch_model import torch_model
from backbench.domain.errors import UnknownBackbone
from backbench.models import catalog
from backbench.models.graph import shaped_graph
from backbench.models.recipe import PublishedCost, recipe_from_toml

# What torch, torchvision and timm say of themselves while they are imported is not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")

FEW = ("resnet18", "vit_tiny_patch16_224", "mobilenetv3_large_100")
SOME = [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in catalog.names()]
COUNTED = [
    pytest.param(name, cost, id=f"{name}-{cost.source.partition(' ')[0]}")
    for name in catalog.names()
    for cost in catalog.recipe(name).published
]
# Pyramids: what timm states of a level is what the file states, and what the graph shows.
PYRAMIDS = [
    pytest.param("mobilenetv3_small_100", 64, marks=[]),
    *(pytest.param(name, None, marks=pytest.mark.slow) for name in catalog.names()),
]


@cache
def gmacs_of(name: str, height: int, width: int) -> float:
    path = catalog.skeleton_path(name, (height, width))
    macs = analyse(shaped_graph(path, batch=1, height=height, width=width)).macs
    assert macs is not None
    return macs / 1e9


@pytest.mark.parametrize("name", SOME)
def test_a_recipe_says_what_timm_says(name: str, timm: Any) -> None:
    of, config = catalog.recipe(name), timm.get_pretrained_cfg(name)
    assert of.params == sum(each.numel() for each in timm.create_model(name).parameters())
    assert (of.timm_tag, of.licence, of.size) == (config.tag, config.license, tuple(config.input_size[1:]))
    text = recipe_text(timm, name, of.skeletons, of.gmacs, of.top1, of.published)
    assert recipe_from_toml(text, "drafted") == of


@pytest.mark.parametrize("name", catalog.names())
def test_a_recipe_states_the_multiply_adds_of_its_graph(name: str) -> None:
    of = catalog.recipe(name)
    assert of.gmacs == float(f"{gmacs_of(name, *of.size):.4g}")


@pytest.mark.parametrize(("name", "cost"), COUNTED)
def test_what_others_count_is_what_is_counted_here(name: str, cost: PublishedCost) -> None:
    """Within a percent and the rounding of the figure; with normalisation counted, ours is the smaller one."""
    of = catalog.recipe(name)
    assert of.params / 1e6 == pytest.approx(cost.params_millions, abs=0.006)
    ours = gmacs_of(name, cost.size, cost.size)
    if cost.norms:
        assert cost.gmacs * 0.8 < ours <= cost.gmacs * 1.01 + cost.resolution / 2
    else:
        assert abs(ours - cost.gmacs) <= cost.gmacs * 0.01 + cost.resolution / 2


def test_torchvisions_figures_are_among_the_published_ones() -> None:
    sources = {cost.source.partition(" ")[0] for name in catalog.names() for cost in catalog.recipe(name).published}
    assert sources >= {"torchvision", "timm"}


@pytest.mark.parametrize(("name", "side"), PYRAMIDS)
def test_levels_have_timms_strides_and_channels(
    name: str, side: int | None, timm: Any, fresh: Any, tmp_path: Any
) -> None:
    height, width = (side, side) if side else catalog.recipe(name).size
    request = ExportRequest(name, height, width, features=True)
    exported = fresh(request) if side else None
    model = exported.torch if exported else torch_model(timm, request)
    info = model.module.feature_info
    own = {} if not timm.get_pretrained_cfg(name).fixed_input_size else {"img_size": (height, width)}
    assert timm.create_model(name, features_only=True, **own).feature_info.reduction() == info.reduction()
    assert [output.stride for output in model.outputs] == info.reduction()
    assert [output.channels for output in model.outputs] == info.channels()
    assert {output.layout for output in model.outputs} == {"NHWC" if "swin" in name else "NCHW"}
    if exported is None:
        from backbench.controller.export.torch_export import onnx_from_torch

        graph = onnx_from_torch(model, request)
    else:
        graph = exported.onnx
    (tmp_path / "levels.onnx").write_bytes(graph.SerializeToString())
    layouts = {output.name: output.layout for output in model.outputs}
    shaped = shaped_graph(tmp_path / "levels.onnx", batch=1, height=height, width=width)
    maps = [output.map for output in analyse(shaped, layouts=layouts).outputs]
    assert [each.stride_px if each else None for each in maps] == [(stride, stride) for stride in info.reduction()]
    assert [each.channels if each else None for each in maps] == info.channels()


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet50", "resnet"),
        ("resnext50_32x4d", "resnext"),
        ("vit_small_patch14_dinov2", "dino"),
        ("vit_base_patch16_clip_224", "clip"),
        ("deit_tiny_patch16_224", "deit"),
        ("vit_tiny_patch16_224", "vit"),
        ("tf_efficientnetv2_s", "efficientnetv2"),
        ("mobilenetv4_conv_small", "mobilenetv4"),
        ("regnety_016", "regnet"),
        ("levit_128s", "levit"),
    ],
)
def test_a_name_tells_its_family(name: str, family: str) -> None:
    assert family_of(name) == family


def test_a_draft_for_a_name_that_timm_does_not_have_is_refused(timm: Any) -> None:
    with pytest.raises(UnknownBackbone, match="did you mean resnet18"):
        recipe_text(timm, "resnt18", (), 1.0)
