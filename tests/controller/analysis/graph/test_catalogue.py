"""The catalogue's graphs against figures that others published or that were worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backbench.controller.analysis.graph import GraphAnalysis
from backbench.models.catalog import names, recipe

Catalogue = Callable[[str, int], GraphAnalysis]

FIELDS = {
    "resnet18": (435, "local"),
    "resnet50": (427, "local"),
    "mobilenetv2_100": (491, "local"),
    "repvgg_a0": (535, "local"),
    "mobilenetv4_conv_small": (943, "local"),
    "convnext_tiny": (1688, "local"),
    "mobilenetv3_small_100": (639, "gated"),
    "mobilenetv3_large_100": (595, "gated"),
    "efficientnet_b0": (851, "gated"),
    "regnety_016": (727, "gated"),
    "ghostnet_100": (1171, "gated"),
    "fastvit_t8": (1455, "gated"),
}
"""The last map's receptive field in pixels, and what it sees beside."""

GMACS = {
    "resnet18": 1.814,
    "resnet50": 4.0892,
    "mobilenetv3_large_100": 0.2166,
    "vit_tiny_patch16_224": 1.2537,
    "convnext_tiny": 4.4555,
    "swin_tiny_patch4_window7_224": 4.491,
}
DEPTHWISE = {"resnet50": 0.0, "mobilenetv2_100": 0.069, "mobilenetv3_large_100": 0.085, "convnext_tiny": 0.024}
GLOBAL = {"vit_tiny_patch16_224": 16, "deit_small_patch16_224": 16, "swin_tiny_patch4_window7_224": 4}
"""Attention from the first block on: what a patch sees, and its stride."""


@pytest.mark.parametrize("name", [name for name in names() if name in FIELDS])
def test_the_last_map_sees_what_is_known_of_it(catalogue: Catalogue, name: str) -> None:
    (output,) = catalogue(name, 224).outputs
    width, context = FIELDS[name]
    assert (output.pooled, output.context) == (True, context)
    assert output.map is not None
    assert output.map.field is not None
    assert output.map.field.receptive_px == (width, width)
    assert output.map.stride_px == (32.0, 32.0)


@pytest.mark.parametrize("name", [name for name in names() if name in GLOBAL])
def test_attention_sees_everything_and_its_patches_are_the_local_part(catalogue: Catalogue, name: str) -> None:
    (output,) = catalogue(name, 224).outputs
    assert output.context == "global"
    assert output.local is not None
    assert output.local.receptive_px == (GLOBAL[name], GLOBAL[name])


@pytest.mark.parametrize("name", [name for name in names() if name in GMACS])
def test_multiply_adds_are_the_published_ones(catalogue: Catalogue, name: str) -> None:
    macs = catalogue(name, 224).macs
    assert macs is not None
    assert macs / 1e9 == pytest.approx(GMACS[name], abs=0.6 * 10 ** -len(str(GMACS[name]).partition(".")[2]))


@pytest.mark.parametrize("name", [name for name in names() if name in DEPTHWISE])
def test_the_depthwise_part_is_known(catalogue: Catalogue, name: str) -> None:
    assert catalogue(name, 224).depthwise_share == pytest.approx(DEPTHWISE[name], abs=6e-4)


@pytest.mark.parametrize("name", names())
def test_every_backbone_has_all_its_sums(catalogue: Catalogue, name: str) -> None:
    of = recipe(name)
    analysis = catalogue(name, of.size[0])
    assert analysis.macs is not None
    assert analysis.macs / 1e9 == pytest.approx(of.gmacs, rel=0.01)
    assert 0.9 < analysis.parameters / of.params < 1.05
    assert analysis.weight_bytes == 4 * analysis.parameters
    assert analysis.activation_peak_bytes is not None
    assert analysis.traffic.unfused_bytes is not None
    assert analysis.traffic.ideal_bytes is not None
    assert analysis.traffic.ideal_bytes < analysis.traffic.unfused_bytes
    assert all(output.context is not None for output in analysis.outputs)


def test_folding_normalisation_leaves_one_number_a_channel(catalogue: Catalogue) -> None:
    """resnet50 in torch has 25,557,032 parameters; two a channel are left of which folding keeps one."""
    assert catalogue("resnet50", 224).parameters == 25_557_032 - 26_560


@pytest.mark.parametrize("side", [64, 224, 320])
def test_fields_and_parameters_do_not_depend_on_the_size_and_multiply_adds_do(catalogue: Catalogue, side: int) -> None:
    analysis = catalogue("resnet50", side)
    (output,) = analysis.outputs
    assert output.map is not None
    assert output.map.field is not None
    assert output.map.field.receptive_px == (427, 427)
    assert analysis.parameters == 25_530_472
    assert analysis.macs is not None
    head = 2048 * 1000
    assert analysis.macs - head == pytest.approx((4_089_184_256 - head) * (side / 224) ** 2)
