"""The files of an artifact: where they may be written, converted ones, whose reference is whose, and none left over."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from backbench.controller.export import exporter
from backbench.controller.export.exporter import Conversion, Exported, check_destination, convert_file, export
from backbench.controller.export.manifest import (
    SideFiles,
    manifest_beside,
    read_manifest,
    reference_beside,
)
from backbench.controller.export.process import TorchExport
from backbench.controller.export.reference_outputs import reference_frames, reference_from_model
from backbench.controller.export.request import ExportRequest
from backbench.domain.errors import BackbenchError, InvalidArgument, InvalidModel, ShapeMismatch, StoreUnusable
from backbench.domain.preprocess import IMAGENET_DEFAULT, Preprocess
from backbench.models import catalog
from backbench.models.hygiene import content_sha256
from backbench.models.onnx_input import inspect_input, model_facts
from backbench.models.reference import TOLERANCES, read_reference

REQUEST = ExportRequest("resnet18", 64, 64)
VERIFICATION = {"against": "torch 2", "worst": 1e-6, "tolerance": 1e-3, "frame_count": 3, "sizes": [[32, 32]]}


def nothing(_: str) -> None:
    pass


@pytest.fixture
def torch_made(graphs: Any, monkeypatch: pytest.MonkeyPatch) -> list[ExportRequest]:
    """The exporting process gives a small network; the list has what was asked of it."""
    asked: list[ExportRequest] = []

    def export_with_torch(request: ExportRequest, folder: Path, note: Callable[[str], None]) -> TorchExport:  # noqa: ARG001
        asked.append(request)
        model = graphs.saved(graphs.cnn(), folder, "model.onnx")
        preprocess = Preprocess(**{**graphs.preprocess, "mean": (0.5,) * 3, "std": (0.25,) * 3})
        frames = reference_frames(None, preprocess, 32, 32)
        reference_from_model(model, frames, preprocess, folder / "reference.npz", made_by="torch 2")
        return TorchExport(model, folder / "reference.npz", {"verification": VERIFICATION, "export_s": 1.5})

    monkeypatch.setattr(exporter, "export_with_torch", export_with_torch)
    return asked


def refused(action: Callable[[], object], error: type[BackbenchError]) -> str:
    with pytest.raises(error) as caught:
        action()
    assert type(caught.value) is error
    assert "\n" not in caught.value.message
    assert caught.value.exit_status == 2
    return caught.value.message


def test_a_file_cannot_be_written_just_anywhere(tmp_path: Path, torch_made: list[ExportRequest]) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for destination, words in (
        (tmp_path, "is a folder; give the path of the .onnx file to write"),
        (tmp_path / "folder.onnx", "is a folder"),
        (tmp_path / "model.pt", "the file to write must end in .onnx"),
        (tmp_path / "model", "the file to write must end in .onnx"),
        (tmp_path / "no" / "model.onnx", f"there is no folder {tmp_path / 'no'}; create it first"),
    ):
        assert words in refused(lambda to=destination: check_destination(to), InvalidArgument)  # type: ignore[misc]
        refused(lambda to=destination: export(REQUEST, Conversion(), to, nothing), InvalidArgument)  # type: ignore[misc]
    assert torch_made == []
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_a_size_that_the_recipe_excludes_starts_nothing(
    name: str, tmp_path: Path, torch_made: list[ExportRequest]
) -> None:
    request = ExportRequest(name, 8, 8)
    message = refused(lambda: export(request, Conversion(), tmp_path / "vit.onnx", nothing), ShapeMismatch)
    assert message == "vit_tiny_patch16_224 does not take 8x8; it takes any height and width from 16 pixels up"
    assert torch_made == []


@pytest.mark.skipif("swin_tiny_patch4_window7_224" not in catalog.names(), reason="no recipe of a Swin")
def test_a_swin_says_which_sizes_it_takes(tmp_path: Path, torch_made: list[ExportRequest]) -> None:
    request = ExportRequest("swin_tiny_patch4_window7_224", 230, 230)
    message = refused(lambda: export(request, Conversion(), tmp_path / "swin.onnx", nothing), ShapeMismatch)
    assert "does not take 230x230; it takes 224x224, or " in message
    assert torch_made == []


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("dynamic", [("batch",), ("size",)])
def test_an_open_size_is_fp32_only(
    precision: Any, dynamic: tuple[str, ...], tmp_path: Path, torch_made: list[ExportRequest]
) -> None:
    request = replace(REQUEST, dynamic=dynamic)
    message = refused(lambda: export(request, Conversion(precision), tmp_path / "m.onnx", nothing), InvalidArgument)
    assert message == f"{precision} is made for one size and batch; leave --dynamic away"
    assert torch_made == []


def test_an_fp32_export_is_placed_as_torch_made_it(tmp_path: Path, torch_made: list[ExportRequest]) -> None:
    exported = export(REQUEST, Conversion(), tmp_path / "net.onnx", nothing)
    assert torch_made == [REQUEST]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.manifest.json", "net.onnx", "net.reference.npz"]
    assert exported.manifest["verification"] == VERIFICATION
    assert exported.manifest["precision"] is None
    assert exported.export_s == 1.5
    assert read_reference(exported.files.reference).made_by == "torch 2"


def test_a_converted_export_keeps_what_torch_was_compared_with_and_has_its_own_reference(
    tmp_path: Path, torch_made: list[ExportRequest]
) -> None:
    told: list[str] = []
    exported = export(REQUEST, Conversion("int8", "cpu"), tmp_path / "net.onnx", told.append)
    assert torch_made == [REQUEST]
    assert told == ["convert to int8"]
    assert exported.manifest["verification"] == VERIFICATION
    report = exported.manifest["precision"]
    assert (report["schema"], report["precision"], report["target"]) == ("backbench.precision/1", "int8", "cpu")
    facts = exported.manifest["model"]
    assert (facts["precision"], facts["target"]) == ("int8", "cpu")
    reference = read_reference(exported.files.reference)
    assert reference.made_by.startswith("onnxruntime ")
    assert (reference.precision, reference.tolerance) == ("int8", TOLERANCES["int8"])
    assert reference_beside(exported.files.model, manifest_beside(exported.files.model)) == exported.files.reference


def test_every_figure_of_a_manifest_can_be_checked(tmp_path: Path, graphs: Any) -> None:
    source = graphs.saved(graphs.cnn(), tmp_path)
    exported = convert_file(source, 1, 32, 32, Conversion("fp16"), tmp_path / "half.onnx", nothing)
    manifest, data = json.loads(exported.files.manifest.read_text()), exported.files.model.read_bytes()
    model = onnx.load(str(exported.files.model))
    assert manifest["file"] == "half.onnx"
    assert (manifest["size_bytes"], manifest["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert manifest["content_sha256"] == content_sha256(model)
    assert manifest["reference_sha256"] == hashlib.sha256(exported.files.reference.read_bytes()).hexdigest()
    assert manifest["model"] == model_facts(model, exported.files.model)
    assert manifest["preprocess"] == graphs.preprocess
    assert manifest["verification"] is None
    assert exported.export_s is None


def test_the_digest_of_the_content_does_not_see_metadata(graphs: Any) -> None:
    plain, stated = graphs.cnn(facts=None), graphs.cnn()
    assert content_sha256(plain) == content_sha256(stated) != content_sha256(graphs.with_first_weights(0.5))


def test_the_digest_of_the_preprocessing_sees_every_part_of_it() -> None:
    parts: list[dict[str, Any]] = [
        {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}, {"interpolation": "bilinear"}, {"crop_ratio": 0.5},
    ]  # fmt: skip
    digests = {replace(IMAGENET_DEFAULT, **part).digest for part in parts}
    digests.add(IMAGENET_DEFAULT.digest)
    assert len(digests) == 5
    assert {len(digest) for digest in digests} == {16}
    assert replace(IMAGENET_DEFAULT).digest == IMAGENET_DEFAULT.digest


def test_a_model_that_says_nothing_of_itself_is_converted_all_the_same(tmp_path: Path, graphs: Any) -> None:
    source = graphs.saved(graphs.cnn(facts=None), tmp_path)
    exported = convert_file(source, 1, 32, 32, Conversion("fp16"), tmp_path / "half.onnx", nothing)
    assert exported.manifest["model"] is None
    assert exported.manifest["preprocess_digest"] == IMAGENET_DEFAULT.digest


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000], ids=["cut short", "a list", "very deep"])
def test_a_model_that_says_nonsense_of_itself_is_refused(tmp_path: Path, graphs: Any, text: str) -> None:
    nonsense = graphs.cnn(facts=None)
    nonsense.metadata_props.append(onnx.StringStringEntryProto(key="backbench.model", value=text))
    source = graphs.saved(nonsense, tmp_path)
    message = refused(
        lambda: convert_file(source, 1, 32, 32, Conversion("fp16"), tmp_path / "half.onnx", nothing), InvalidModel
    )
    assert "metadata 'backbench.model' is not" in message
    assert message.endswith("remove it")


def test_a_skeleton_is_converted_at_the_size_that_is_asked_for(tmp_path: Path) -> None:
    path = catalog.skeleton_path("mobilenetv3_small_100")
    exported = convert_file(path, 2, 64, 96, Conversion("int8", "tensorrt"), tmp_path / "small.onnx", nothing)
    contract = inspect_input(exported.files.model)
    assert (contract.dims, contract.precision, contract.skeleton) == ((2, 3, 64, 96), "int8", False)
    assert exported.manifest["precision"]["note"] == "random weights: the errors say nothing about accuracy"
    reference = read_reference(exported.files.reference)
    assert (reference.height, reference.width, reference.frame_count) == (64, 96, 3)


def test_there_is_nothing_to_convert_to_fp32(tmp_path: Path, graphs: Any) -> None:
    source = graphs.saved(graphs.cnn(), tmp_path)
    message = refused(
        lambda: convert_file(source, 1, 32, 32, Conversion(), tmp_path / "m.onnx", nothing), InvalidArgument
    )
    assert message == "the model is fp32 already; ask for fp16 or int8"
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]


def test_a_model_that_does_not_work_leaves_nothing(
    tmp_path: Path, graphs: Any, torch_made: list[ExportRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    infinite = graphs.saved(graphs.with_first_weights(float("inf")), tmp_path)
    with pytest.raises(InvalidModel):
        convert_file(infinite, 1, 32, 32, Conversion("int8"), tmp_path / "out.onnx", nothing)
    infinite.unlink()

    def no_reference(path: Path) -> None:
        raise InvalidModel(f"{path}: no usable reference outputs")

    monkeypatch.setattr(exporter, "read_reference", no_reference)
    with pytest.raises(InvalidModel, match="no usable reference"):
        export(REQUEST, Conversion(), tmp_path / "out.onnx", nothing)
    assert torch_made == [REQUEST]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("blocked", ["net.reference.npz", "net.manifest.json"])
def test_where_one_of_the_files_cannot_be_written_none_is_left(
    blocked: str, tmp_path: Path, torch_made: list[ExportRequest]
) -> None:
    (tmp_path / blocked).mkdir()
    with pytest.raises(StoreUnusable, match=blocked):
        export(REQUEST, Conversion(), tmp_path / "net.onnx", nothing)
    assert torch_made == [REQUEST]
    assert [path.name for path in tmp_path.iterdir()] == [blocked]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to the superuser")
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, torch_made: list[ExportRequest]) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(StoreUnusable, match="shut"):
        export(REQUEST, Conversion(), tmp_path / "shut" / "net.onnx", nothing)
    assert torch_made == [REQUEST]


@pytest.fixture
def placed(tmp_path: Path, torch_made: list[ExportRequest]) -> Exported:
    exported = export(REQUEST, Conversion(), tmp_path / "net.onnx", nothing)
    assert torch_made
    return exported


def test_a_manifest_and_a_reference_belong_to_their_very_model(placed: Exported) -> None:
    files = placed.files
    manifest = manifest_beside(files.model)
    assert manifest == json.loads(json.dumps(placed.manifest))
    assert reference_beside(files.model, manifest) == files.reference
    files.model.write_bytes(files.model.read_bytes() + b"\0")
    assert manifest_beside(files.model) is None
    assert reference_beside(files.model, None) is None


def test_a_reference_of_another_model_is_not_taken(placed: Exported) -> None:
    files, manifest = placed.files, manifest_beside(placed.files.model)
    data = files.reference.read_bytes()
    files.reference.write_bytes(data + b"\0")
    assert reference_beside(files.model, manifest) is None
    files.reference.unlink()
    assert reference_beside(files.model, manifest) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": "backbench.manifest/2"}', "\udcff"])
def test_a_manifest_that_is_none_is_not_taken(text: str, placed: Exported) -> None:
    placed.files.manifest.write_bytes(text.encode(errors="surrogateescape"))
    assert read_manifest(placed.files.manifest) is None
    assert manifest_beside(placed.files.model) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "resnet18"},
        {"verification": 1},
        {"precision": {}},
        {"precision": {"outputs": [1]}},
        {"precision": {"held_out_image_count": None}},
    ],
)
def test_a_manifest_of_another_form_is_not_taken(changed: dict[str, Any], tmp_path: Path, graphs: Any) -> None:
    source = graphs.saved(graphs.cnn(), tmp_path)
    files = convert_file(source, 1, 32, 32, Conversion("int8"), tmp_path / "small.onnx", nothing).files
    manifest = read_manifest(files.manifest)
    assert manifest is not None
    for part, value in changed.items():
        manifest[part] = {**manifest[part], **value} if isinstance(value, dict) and value else value
    files.manifest.write_text(json.dumps(manifest))
    assert manifest_beside(files.model) is None


def test_files_lie_beside_a_model_whose_name_has_dots() -> None:
    files = SideFiles(Path("some/resnet18.a1_in1k.onnx"))
    assert files.manifest == Path("some/resnet18.a1_in1k.manifest.json")
    assert files.reference == Path("some/resnet18.a1_in1k.reference.npz")
