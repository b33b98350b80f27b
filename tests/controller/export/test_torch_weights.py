"""Weights from a user's checkpoint: what is read, what is refused, and that it is what is exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from backbench.controller.export.request import ExportRequest
from backbench.controller.export.torch_model import torch_model
from backbench.controller.export.torch_weights import awaken, digest_of, read_checkpoint
from backbench.domain.errors import InvalidModel

# What torch, torchvision and timm say of themselves while they are imported is not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")

Trained = Callable[..., Any]


@pytest.fixture
def trained(timm: Any) -> Trained:
    """A module with weights of its own, in evaluation mode."""

    def module(name: str, side: int = 64, **arguments: Any) -> Any:
        made = timm.create_model(name, **arguments)
        awaken(made, side, side, seed=5)
        return made.eval()

    return module


def saved(values: Mapping[str, Any], path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(dict(values), str(path))
    else:
        torch.save(values, path)
    return path


def image_of(side: int) -> Any:
    import torch

    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


def result_of(module: Any, image: Any) -> Any:
    import torch

    with torch.no_grad():
        return module(image)


def refusal(timm: Any, path: Path, name: str = "resnet18", size: int | None = 64) -> str:
    with pytest.raises(InvalidModel) as caught:
        torch_model(timm, ExportRequest(name, size, size, weights=str(path)))
    assert "\n" not in caught.value.message
    assert caught.value.exit_status == 2
    assert str(path) in caught.value.message
    return caught.value.message


def test_a_safetensors_checkpoint_is_what_is_used(timm: Any, trained: Trained, tmp_path: Path) -> None:
    mine = trained("resnet18")
    path = saved(mine.state_dict(), tmp_path / "mine.safetensors")
    model = torch_model(timm, ExportRequest("resnet18", 64, 64, weights=str(path)))
    assert (model.weights, model.weights_sha256) == ("file", digest_of(mine))
    assert (result_of(model.module, image_of(64)) == result_of(mine, image_of(64))).all()


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema", "model_ema", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_training_checkpoint_is_unwrapped(
    wrapper: str | None, prefix: str, timm: Any, trained: Trained, tmp_path: Path
) -> None:
    mine = trained("test_resnet")
    values: dict[str, Any] = {prefix + key: value for key, value in mine.state_dict().items()}
    path = saved({"epoch": 3, wrapper: values} if wrapper else values, tmp_path / "mine.pth")
    model = torch_model(timm, ExportRequest("test_resnet", 64, 64, weights=str(path)))
    assert model.weights_sha256 == digest_of(mine)


def test_the_averaged_weights_of_a_training_are_preferred(timm: Any, trained: Trained, tmp_path: Path) -> None:
    mine = trained("test_resnet")
    others = {key: value + 1 for key, value in mine.state_dict().items()}
    path = saved({"state_dict": others, "state_dict_ema": mine.state_dict()}, tmp_path / "mine.pth")
    assert torch_model(timm, ExportRequest("test_resnet", weights=str(path))).weights_sha256 == digest_of(mine)


def test_an_export_of_ten_classes_gives_what_the_trained_module_gives(
    timm: Any, trained: Trained, tmp_path: Path
) -> None:
    from backbench.controller.export.torch_export import onnx_from_torch

    mine = trained("test_resnet", num_classes=10)
    path = saved(mine.state_dict(), tmp_path / "ten.safetensors")
    request = ExportRequest("test_resnet", 64, 64, weights=str(path))
    model = torch_model(timm, request)
    assert [output.channels for output in model.outputs] == [10]
    assert model.params == sum(each.numel() for each in mine.parameters())
    session = ort.InferenceSession(onnx_from_torch(model, request).SerializeToString())
    for image in image_of(64).split(1):
        (got,), wanted = session.run(None, {"image": image.numpy()}), result_of(mine, image).numpy()
        assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_a_checkpoint_trained_at_another_size_is_fitted(timm: Any, trained: Trained, tmp_path: Path) -> None:
    mine = trained("vit_tiny_patch16_224", side=96, img_size=96, num_classes=5)
    path = saved(mine.state_dict(), tmp_path / "small.safetensors")
    model = torch_model(timm, ExportRequest("vit_tiny_patch16_224", 96, 96, weights=str(path)))
    assert model.weights_sha256 == digest_of(mine)
    assert torch_model(timm, ExportRequest("vit_tiny_patch16_224", 64, 80, weights=str(path))).outputs[0].channels == 5


def test_features_are_taken_from_a_classifiers_checkpoint(timm: Any, trained: Trained, tmp_path: Path) -> None:
    mine = trained("test_resnet", num_classes=7)
    path = saved(mine.state_dict(), tmp_path / "mine.pth")
    model = torch_model(timm, ExportRequest("test_resnet", 64, 64, weights=str(path), features=True))
    wanted = mine.forward_features(image_of(64))
    assert (result_of(model.module, image_of(64))[-1] == wanted).all()


def test_a_checkpoint_of_another_backbone_is_refused_with_what_differs(
    timm: Any, trained: Trained, tmp_path: Path
) -> None:
    path = saved(trained("test_vit").state_dict(), tmp_path / "vit.safetensors")
    wanted, there = timm.create_model("resnet18").state_dict(), timm.create_model("test_vit").state_dict()
    message = refusal(timm, path)
    missing = [key for key in wanted.keys() - there.keys() if not key.endswith("num_batches_tracked")]
    unknown = there.keys() - wanted.keys()
    assert f"{path} is no checkpoint of resnet18: of {len(wanted)} tensors {len(missing)} missing (" in message
    assert f"; {len(unknown)} unknown ({', '.join(sorted(unknown)[:3])}, ...)" in message
    assert message.endswith("; name its architecture")


def test_a_checkpoint_whose_layers_have_other_shapes_is_refused_with_them(
    timm: Any, trained: Trained, tmp_path: Path
) -> None:
    values = trained("resnet18").state_dict()
    values["conv1.weight"] = values["conv1.weight"][:, :, :5, :5].contiguous()
    message = refusal(timm, saved(values, tmp_path / "odd.safetensors"))
    assert "is no checkpoint of resnet18: of 122 tensors 1 of another shape (conv1.weight); name its" in message
    del values["conv1.weight"]
    assert "1 missing (conv1.weight)" in refusal(timm, saved(values, tmp_path / "less.pth"))


@pytest.mark.parametrize("name", ["words.pth", "words.safetensors", "words", "empty.pth", "empty.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(name: str, timm: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"" if name.startswith("empty") else b"these are words, and no tensors\n" * 50)
    assert "not a checkpoint of tensors" in refusal(timm, path)


def test_a_cut_checkpoint_is_refused(timm: Any, trained: Trained, tmp_path: Path) -> None:
    for name in ("cut.pth", "cut.safetensors"):
        path = saved(trained("test_resnet").state_dict(), tmp_path / name)
        path.write_bytes(path.read_bytes()[:100_000])
        assert "not a checkpoint of tensors" in refusal(timm, path, "test_resnet")


@pytest.mark.parametrize("values", [{}, {"epoch": 3}, {"state_dict": {"epoch": 3}}, [1, 2], 7])
def test_a_checkpoint_without_tensors_is_refused(values: Any, timm: Any, tmp_path: Path) -> None:
    assert "save the module's state_dict()" in refusal(timm, saved(values, tmp_path / "none.pth"))


def test_a_whole_module_or_a_programme_in_a_checkpoint_is_not_run(timm: Any, tmp_path: Path) -> None:
    import torch

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "trapped",))

    for number, value in enumerate((Trap(), torch.nn.Linear(2, 2))):
        torch.save({"state_dict": {"a": torch.ones(1)}, "more": value}, tmp_path / f"{number}.pth")
        assert "save the state dict alone" in refusal(timm, tmp_path / f"{number}.pth")
    assert not (tmp_path / "trapped").exists()


def test_a_missing_file_is_refused(timm: Any, tmp_path: Path) -> None:
    for name in ("gone.pth", "gone.safetensors"):
        assert "cannot be read" in refusal(timm, tmp_path / name)


def test_tensors_are_read_by_name(timm: Any, tmp_path: Path) -> None:
    assert timm
    import torch

    path = saved({"module.a": torch.ones(2), "b": torch.zeros(3)}, tmp_path / "two.safetensors")
    assert {name: tuple(value.shape) for name, value in read_checkpoint(path).items()} == {"a": (2,), "b": (3,)}


def test_the_digest_is_of_names_shapes_and_numbers(timm: Any) -> None:
    assert timm
    import torch

    def digest(**values: Any) -> str:
        module = torch.nn.Module()
        for name, value in values.items():
            module.register_buffer(name, value)
        return digest_of(module)

    digests = [
        digest(a=torch.zeros(2)),
        digest(b=torch.zeros(2)),
        digest(a=torch.zeros(2, 1)),
        digest(a=torch.tensor([0.0, 1.0])),
        digest(a=torch.zeros(2, dtype=torch.float64)),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(a=torch.zeros(2), b=torch.ones(1)) == digest(b=torch.ones(1), a=torch.zeros(2))
