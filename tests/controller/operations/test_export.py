"""`backbench export` without its words: every option is checked before anything is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.export.calibration import shipped_photographs
from backbench.controller.export.exporter import Conversion, Exported
from backbench.controller.export.manifest import SideFiles
from backbench.controller.export.request import ExportRequest
from backbench.controller.operations import export as operation
from backbench.controller.operations.export import ExportCommand, conversion_of, default_name, export_backbone
from backbench.domain.errors import InvalidArgument, InvalidRequest

PLAIN = ExportCommand("resnet18", weights="random")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[ExportRequest, Conversion, Path]]:
    """What the exporter was asked for; it makes nothing."""
    calls: list[tuple[ExportRequest, Conversion, Path]] = []

    def export(request: ExportRequest, conversion: Conversion, destination: Path, note: Any) -> Exported:  # noqa: ARG001
        calls.append((request, conversion, destination))
        return Exported(SideFiles(destination), {})

    monkeypatch.setattr(operation, "export", export)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 0}, "--batch is 0; it must be between 1 and 1024"),
        ({"batch": 1025}, "--batch is 1025"),
        ({"size": "huge"}, '--size "huge" is not a size'),
        ({"size": "64x"}, "is not a size"),
        ({"precision": "int4"}, '--precision "int4" is not known; take one of fp32, fp16, int8'),
        ({"target": "npu", "precision": "int8"}, '--for "npu" is not known; take cpu or tensorrt'),
        ({"target": "tensorrt"}, "--for tensorrt is of no use for fp32; add --precision int8"),
        ({"opset": 16}, "--opset is 16; it must lie between 17 and 23"),
        ({"opset": 99}, "--opset is 99"),
        ({"dynamic": ("batch", "depth")}, '--dynamic "depth" is not known; take batch or size'),
        ({"calibration": Path("photos")}, "--calibration is of no use for fp32; add --precision int8"),
        ({"calibration": Path("gone"), "precision": "int8"}, "gone: no such file or folder"),
        ({"calibration": Path("empty"), "precision": "int8"}, "empty"),
        ({"output": Path("model.pt")}, "model.pt: the file to write must end in .onnx"),
        ({"output": Path("empty")}, "empty is a folder; give the path of the .onnx file"),
        ({"output": Path("no/model.onnx")}, "no/model.onnx: there is no folder no; create it first"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_made(
    change: dict[str, Any], words: str, tmp_path: Path, asked: list[Any]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(InvalidRequest) as caught:
        export_backbone(replace(PLAIN, **change), lambda _: None)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_status == 2
    assert asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no images") as caught:
        conversion_of("int8", "cpu", tmp_path)
    assert str(tmp_path) in caught.value.message


def test_every_option_reaches_the_exporter(asked: list[Any], tmp_path: Path) -> None:
    folder = shipped_photographs()[0].parent
    command = ExportCommand(
        "vit_tiny_patch16_224", "96x112", 2, "random", 5, True, "int8", "tensorrt", folder, 17, (), Path("vit.onnx")
    )
    export_backbone(command, lambda _: None)
    ((request, conversion, destination),) = asked
    assert request == ExportRequest("vit_tiny_patch16_224", 96, 112, 2, "random", 5, True, (), 17)
    assert (conversion.precision, conversion.target, destination) == ("int8", "tensorrt", Path("vit.onnx"))
    assert conversion.calibration is not None
    assert conversion.calibration.found_count == len(shipped_photographs())
    export_backbone(replace(PLAIN, dynamic=("batch",)), lambda _: None)
    request, conversion, destination = asked[1]
    assert request == ExportRequest("resnet18", weights="random", dynamic=("batch",))
    assert conversion == Conversion()
    assert destination == Path("resnet18_random_dynamic-batch.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "resnet18_random.onnx"),
        ({"weights": "pretrained"}, "resnet18.onnx"),
        ({"weights": "crops/mine.safetensors"}, "resnet18_mine.onnx"),
        ({"seed": 3, "batch": 4, "opset": 17}, "resnet18_random3_batch4_opset17.onnx"),
        ({"name": "resnet18.tv_in1k"}, "resnet18.tv_in1k_random.onnx"),
        ({"size": "96X112"}, "resnet18_random_96x112.onnx"),
        ({"features": True, "size": "448"}, "resnet18_random_448_features.onnx"),
        ({"precision": "fp16"}, "resnet18_random_fp16.onnx"),
        ({"precision": "int8", "target": "tensorrt"}, "resnet18_random_int8_tensorrt.onnx"),
        ({"dynamic": ("batch", "size")}, "resnet18_random_dynamic-batch_dynamic-size.onnx"),
    ],
)
def test_a_file_is_named_for_what_it_is(change: dict[str, Any], name: str) -> None:
    assert default_name(replace(PLAIN, **change)) == name
