"""`backbench export` and what it is refused for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbench.controller.export.exporter import Exported
from backbench.controller.export.request import ExportRequest
from backbench.controller.operations import export as operation

Exports = Callable[[ExportRequest], Exported]

needs_timm = pytest.mark.skipif(
    find_spec("timm") is None, reason="timm is not installed (pip install 'backbench[export]')"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refusal(answer: Any) -> str:
    assert answer.out == ""
    lines: list[str] = answer.err.splitlines()
    assert lines[-1].startswith("backbench: error: ")
    assert len([line for line in lines if "error" in line]) == 1
    return lines[-1]


@needs_timm
def test_an_export_is_one_document_and_three_files_the_same_ones_every_time(
    backbench: Any, folder: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exports(ExportRequest("resnet18", 64, 64))
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ("export", "resnet18", "--size", "64", "--weights", "random", "-o", "resnet18.onnx")
    answer = backbench(*arguments, "--json")
    assert answer.json == {**json.loads(made.files.manifest.read_text()), "path": "resnet18.onnx"}
    assert [line for line in answer.err.splitlines() if line] == [
        f"backbench: export resnet18: {stage}" for stage in ("import torch", "create", "export", "compare")
    ]
    assert len(list(folder.iterdir())) == 3
    for path in (made.files.model, made.files.manifest, made.files.reference):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_export_is_told_in_a_few_lines(backbench: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made without torch: what is converted from a skeleton has the same manifest."""
    from backbench.controller.export.exporter import Conversion, convert_file
    from backbench.models.catalog import skeleton_path

    def export(request: Any, conversion: Conversion, destination: Path, note: Any) -> Any:
        size = (request.height, request.width)
        return convert_file(skeleton_path(request.name), request.batch, *size, conversion, destination, note)

    monkeypatch.setattr(operation, "export", export)
    answer = backbench("export", "mobilenetv3_small_100", "--size", "64", "--precision", "fp16", "-o", "small.onnx")
    assert answer.out.splitlines()[0].startswith("mobilenetv3_small_100")
    for words in ("small.onnx, 5", "small.manifest.json, small.reference.npz", "2.54 M parameters", "fp16 for "):
        assert words in answer.out
    assert answer.err == "backbench: convert to fp16\n"
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "huge"), "not a size"),
        (("--size", "8"), "resnet18 does not take 8x8; it takes any height and width from 32 pixels up"),
        (("--batch", "0"), "--batch is 0; it must be between 1 and 1024"),
        (("--batch", "many"), "--batch"),
        (("--precision", "int4"), "take one of fp32, fp16, int8"),
        (("--for", "npu", "--precision", "int8"), "take cpu or tensorrt"),
        (("--opset", "13"), "--opset is 13; it must lie between 17 and 23"),
        (("--dynamic", "depth"), "take batch or size"),
        (("--dynamic", "batch", "--precision", "int8"), "int8 is made for one size and batch; leave --dynamic away"),
        (("--weights", "mine.safetensors"), "--weights mine.safetensors: no such file; take pretrained, random or"),
        (("--calibration", "."), "--calibration is of no use for fp32"),
        (("--calibration", ".", "--precision", "int8"), "no images"),
        (("--calibration", "gone", "--precision", "int8"), "gone: no such file or folder"),
        (("-o", "."), "is a folder"),
        (("-o", "model.pt"), "must end in .onnx"),
        (("-o", "no/model.onnx"), "there is no folder no; create it first"),
    ],
)
def test_bad_input_is_one_line_with_the_way_out_and_status_2(
    backbench: Any, folder: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backbench.controller.export.process.require_export", lambda: None)
    answer = backbench("export", "resnet18", *arguments, status=2)
    assert words in refusal(answer)
    assert answer.err.count("\n") == 1
    assert not list(folder.iterdir())


@pytest.mark.parametrize("command", ["export", "profile"])
def test_the_help_has_every_option(backbench: Any, command: str) -> None:
    shown = re.sub(r"\x1b\[[0-9;]*m", "", backbench(command, "--help").out)
    options = {"--size", "--batch", "--weights", "--precision", "--for", "--calibration", "--json"}
    own = {"export": {"--seed", "--features", "--opset", "--dynamic", "--output"}, "profile": {"--backend", "--budget"}}
    assert not {option for option in options | own[command] if option not in shown}


def test_a_skeleton_is_profiled_in_int8(here: Any) -> None:
    quick = ("--device", "here", "--size", "32", "--frames", "10", "--warmup", "1", "--no-memory-pass")
    answer = here("profile", "mobilenetv3_small_100", *quick, "--precision", "int8", "--json")
    model = answer.json["model"]
    assert (model["source"], model["precision"]) == ("skeleton", "int8")
    assert answer.json["outputs"]["passed"]
    assert "backbench: convert to int8" in answer.err
    assert np.isfinite(model["conversion"]["outputs"][0]["cosine"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--precision", "int4"), "take one of fp32, fp16, int8"),
        (("--precision", "int8", "--for", "npu"), "take cpu or tensorrt"),
        (("--calibration", "."), "--calibration is of no use without --precision int8"),
        (("--weights", "gone.pth"), "--weights gone.pth: no such file"),
    ],
)
def test_a_profile_that_cannot_be_made_is_refused_before_the_device_is_asked(
    backbench: Any, folder: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backbench.controller.operations.plan.require_export", lambda: None)
    answer = backbench("profile", "resnet18", "--device", "nowhere", *arguments, status=2)
    assert words in refusal(answer)
    assert not list(folder.iterdir())
