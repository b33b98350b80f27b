"""The analysis against torch: what it counts itself, and where its gradients reach."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from backbench.controller.analysis.graph import GraphAnalysis, analyse
from backbench.controller.export.timm_import import import_timm
from backbench.models.catalog import names

LINEARISED = [("resnet18", 448), ("resnet50", 448), ("mobilenetv2_100", 512)]


@pytest.fixture(scope="module")
def timm() -> Any:
    return import_timm()


@pytest.fixture(scope="module")
def torch(timm: Any) -> Any:  # noqa: ARG001
    import torch

    torch.set_num_threads(1)
    return torch


def small_network(torch: Any) -> Any:
    """Convolutions of every kind, a matrix product, and what is not counted."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Hardswish(),
        nn.Conv2d(16, 24, 3, padding=2, dilation=2, groups=4),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(24, 8, 2, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ).eval()


def test_multiply_adds_are_those_that_torch_counts(torch: Any, tmp_path: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network, image = small_network(torch), torch.zeros(2, 3, 64, 48)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, (image,), None, dynamo=True, verbose=False, input_names=["image"])
    program.save(tmp_path / "small.onnx", external_data=False)
    analysis = analyse(onnx.load(tmp_path / "small.onnx"))
    assert analysis.macs == counter.get_total_flops() // 2
    (output,) = analysis.outputs
    assert output.map is not None
    assert output.map.channels == 8


def linearised(torch: Any, module: Any) -> Any:
    """The network with weights that are all alike and nothing that could stop a gradient."""
    nn = torch.nn
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
        elif isinstance(child, (nn.ReLU, nn.ReLU6, nn.BatchNorm2d)):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.Conv2d):
            nn.init.constant_(child.weight, 1 / child.weight[0].numel())
        else:
            linearised(torch, child)
    return module


def support(torch: Any, network: Any, side: int) -> tuple[int, list[tuple[int, int]]]:
    """An element in the middle of the last map, and the pixels that it sees, first and last, down and across."""
    image = torch.ones(1, 3, side, side, requires_grad=True)
    last = network.forward_features(image)
    middle = last.shape[-1] // 2
    (gradient,) = torch.autograd.grad(last[0, 0, middle, middle], image)
    seen = gradient[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    return middle, [(int(each[0]), int(each[-1])) for each in (rows, columns)]


@pytest.mark.parametrize(("name", "side"), [each for each in LINEARISED if each[0] in names()])
def test_a_receptive_field_is_the_support_of_the_gradient(
    timm: Any, torch: Any, catalogue: Callable[[str, int], GraphAnalysis], name: str, side: int
) -> None:
    network = timm.create_model(name, pretrained=False).eval()
    for module in network.modules():  # timm's normalisations hold the activation that follows them
        if type(module).__name__ == "BatchNormAct2d":
            module.forward = lambda features: features
    place, found = support(torch, linearised(torch, network), side)
    (output,) = catalogue(name, side).outputs
    assert output.map is not None
    field = output.map.field
    assert field is not None
    for axis, (first, last) in enumerate(found):
        assert 0 < first < last < side - 1, "the whole field is inside of the image"
        assert last - first + 1 == field.receptive_px[axis]
        assert (first + last) / 2 == field.offset_px[axis] + place * field.stride_px[axis]
