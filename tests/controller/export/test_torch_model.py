"""The torch module that a request asks for: names, tags, sizes, what is said of it, and weights that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.export import torch_weights
from backbench.controller.export.request import ExportRequest
from backbench.controller.export.torch_model import known_config, preprocess_of, torch_model
from backbench.controller.export.torch_weights import require_pretrained
from backbench.domain.errors import BackbenchError, InvalidArgument, ShapeMismatch, UnknownBackbone
from backbench.models import catalog

# What torch, torchvision and timm say of themselves while they are imported is not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")


def refused(action: Callable[[], object], error: type[BackbenchError]) -> str:
    with pytest.raises(error) as caught:
        action()
    assert type(caught.value) is error
    assert "\n" not in caught.value.message
    assert caught.value.exit_status == 2
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnt18", "timm has no model called 'resnt18'; did you mean resnet18"),
        ("ConvNext_Tiny", "did you mean convnext_tiny"),
        ("zzzzqqqq", "timm has no model called 'zzzzqqqq'; timm.list_models() has them all"),
        ("hf-hub:timm/resnet18", "timm has no model called"),
        ("", "timm has no model called ''"),
        ("resnet18.nope", "resnet18 has no tag 'nope'; it has a1_in1k, a2_in1k"),
        ("resnet18.", "resnet18 has no tag ''; it has a1_in1k"),
        ("resnet18.a1_in1k.more", "resnet18 has no tag 'a1_in1k.more'"),
    ],
)
def test_a_name_that_timm_does_not_have_gets_those_that_it_has(name: str, words: str, timm: Any) -> None:
    assert words in refused(lambda: torch_model(timm, ExportRequest(name)), UnknownBackbone)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            ExportRequest("vit_tiny_patch16_224", 8, 8),
            "vit_tiny_patch16_224 does not work at 8x8 (Calculated padded input size",
        ),
        (ExportRequest("vit_tiny_patch16_224", 8, 8), "try its own 224x224, or multiples of 32"),
        (ExportRequest("efficientformerv2_s0", 100, 100), "try its own 224x224, or multiples of 32"),
        (
            ExportRequest("vit_small_patch14_dinov2", 100, 98, dynamic=("size",)),
            "should be divisible by patch size (14).); try its own 518x518, or multiples of 42",
        ),
    ],
)
def test_a_size_that_a_backbone_cannot_take_is_refused_with_sizes_that_it_takes(
    request_: ExportRequest, words: str, timm: Any
) -> None:
    assert words in refused(lambda: torch_model(timm, request_), ShapeMismatch)


def test_a_backbone_that_is_laid_out_for_one_size_cannot_have_an_open_one(timm: Any) -> None:
    request = ExportRequest("efficientformerv2_s0", dynamic=("size",))
    assert "cannot have a dynamic size" in refused(lambda: torch_model(timm, request), InvalidArgument)


def test_memory_that_runs_out_is_not_taken_for_a_wrong_size(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes")

    monkeypatch.setattr("backbench.controller.export.torch_model.awaken", fail)
    with pytest.raises(MemoryError):
        torch_model(timm, ExportRequest("test_resnet"))


def test_what_is_said_of_a_module_is_what_timm_states(timm: Any) -> None:
    model = torch_model(timm, ExportRequest("vit_tiny_patch16_224", 96, 112))
    config = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    count = sum(each.numel() for each in timm.create_model(model.name, img_size=(96, 112)).parameters())
    assert (model.name, model.tag, model.licence) == ("vit_tiny_patch16_224", config.tag, config.license)
    assert (model.height, model.width, model.params, model.step) == (96, 112, count, 32)
    assert not model.module.training
    tagged = torch_model(timm, ExportRequest("resnet18.tv_in1k", 64, 64))
    assert (tagged.name, tagged.tag, tagged.licence) == ("resnet18", "tv_in1k", "bsd-3-clause")
    assert tagged.preprocess == preprocess_of(timm.get_pretrained_cfg("resnet18.tv_in1k"))


def test_a_size_that_is_not_asked_for_is_the_backbones_own(timm: Any) -> None:
    model = torch_model(timm, ExportRequest("test_vit"))
    assert (model.height, model.width) == timm.get_pretrained_cfg("test_vit").input_size[1:] == (160, 160)


def test_the_published_parameters_are_counted_before_the_deploy_form(timm: Any) -> None:
    model = torch_model(timm, ExportRequest("repvgg_a0", 64, 64))
    assert model.params == sum(each.numel() for each in timm.create_model("repvgg_a0").parameters())
    assert sum(each.numel() for each in model.module.parameters()) < model.params


def test_the_deploy_form_gives_what_the_trained_form_gives(timm: Any) -> None:
    import torch

    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    request = ExportRequest("repvgg_a0", 64, 64)
    torch.manual_seed(0)
    trained = timm.create_model("repvgg_a0")
    torch_weights.awaken(trained, 64, 64, 0)
    with torch.no_grad():
        wanted, got = trained.eval()(image), torch_model(timm, request).module(image)
    assert (wanted - got).abs().max() < 1e-4 * wanted.abs().max()


def test_random_weights_depend_on_the_seed_alone(timm: Any) -> None:
    digests = [torch_model(timm, ExportRequest("test_resnet", 64, 64, seed=seed)).weights_sha256 for seed in (0, 1, 0)]
    assert digests[0] == digests[2] != digests[1]
    assert torch_model(timm, ExportRequest("test_resnet", 64, 64, seed=1)).weights == "random:1"


def test_no_branch_of_a_module_with_random_weights_is_silent(timm: Any) -> None:
    """An untrained ResNet ends its blocks with scales of zero, an untrained ConvNeXt with scales of 1e-6."""
    import torch

    for name in ("resnet18", "test_convnext"):
        module = torch_model(timm, ExportRequest(name, 64, 64)).module
        scales = [value for key, value in module.named_parameters() if value.ndim == 1]
        assert min(float(value.abs().max()) for value in scales) > 0.01
        with torch.no_grad():
            produced = module(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
        assert torch.isfinite(produced).all()
        assert float((produced[0] - produced[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "vit_small_patch14_dinov2"])
def test_the_catalogue_has_timms_preprocessing(name: str, timm: Any) -> None:
    if name not in catalog.names():
        pytest.skip(f"{name} has no recipe")
    assert preprocess_of(known_config(timm, name)) == catalog.recipe(name).preprocess


def test_pretrained_weights_that_are_neither_here_nor_to_be_had_are_an_error_with_the_ways_out(
    timm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setattr(torch_weights, "getproxies", dict)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    message = refused(lambda: torch_model(timm, ExportRequest("resnet18", weights="pretrained")), InvalidArgument)
    assert message == (
        "the pretrained weights of resnet18.a1_in1k are not on this machine and cannot be fetched (no network);"
        " connect, or give a checkpoint with --weights FILE.safetensors, or take --weights random, which has the same"
        " speed"
    )
    monkeypatch.setattr(torch_weights, "getproxies", lambda: {"https": "http://proxy:3128"})
    require_pretrained(timm, "resnet18")  # a proxy looks names up itself


def test_a_backbone_that_nobody_trained_has_no_pretrained_weights(timm: Any) -> None:
    nobody = next(name for name in timm.list_models("resnet*") if not timm.get_pretrained_cfg(name).has_weights)
    message = refused(lambda: torch_model(timm, ExportRequest(nobody, weights="pretrained")), InvalidArgument)
    assert message == f"timm has no pretrained weights of {nobody}; take --weights random or --weights FILE"


def test_without_network_and_cache_the_command_line_does_not_try_for_long(timm: Any, tmp_path: Path) -> None:
    """What time there is is for importing torch, not for trying again."""
    assert timm
    hub = {"HF_HOME": str(tmp_path / "empty"), "HF_ENDPOINT": "https://hub.invalid"}
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | hub
    done = subprocess.run(
        [sys.executable, "-m", "backbench.controller", "export", "resnet18", "-o", "model.onnx"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=90,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("backbench: error: the pretrained weights of resnet18.a1_in1k are")
    assert not list(tmp_path.glob("*.*"))


def test_a_way_of_cropping_that_devices_do_not_know_is_refused(timm: Any) -> None:
    with pytest.raises(InvalidArgument, match="dm_nfnet_f0 is fed with crop mode squash"):
        preprocess_of(known_config(timm, "dm_nfnet_f0"))


def test_windows_that_are_laid_out_for_one_size_refuse_an_open_one(timm: Any) -> None:
    request = ExportRequest("swin_tiny_patch4_window7_224", weights="random", dynamic=("size",))
    with pytest.raises(InvalidArgument, match="cannot have a dynamic size"):
        torch_model(timm, request)
