"""An export for people."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backbench.controller.export.exporter import Exported
from backbench.controller.export.manifest import SideFiles
from backbench.controller.report.export import export_summary

MODEL = {
    "name": "resnet18",
    "tag": "a1_in1k",
    "licence": "apache-2.0",
    "weights": "random:0",
    "weights_sha256": "ab" * 32,
    "opset": 20,
    "params": 11_689_512,
    "input": {"name": "image", "dims": ["batch", 3, 64, 96], "layout": "NCHW", "color": "RGB", "dtype": "float32"},
    "outputs": [
        {"name": "features_0_s2", "stride": 2, "channels": 64, "layout": "NHWC"},
        {"name": "logits", "stride": None, "channels": 1000, "layout": "NC"},
    ],
}
MANIFEST = {
    "size_bytes": 46_747_347,
    "sha256": "cd" * 32,
    "model": MODEL,
    "preprocess": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_ratio": 0.95},
    "preprocess_digest": "ef" * 8,
    "verification": {
        "against": "torch 2.13.0",
        "frame_count": 3,
        "sizes": [[64, 96], [128, 128]],
        "worst": 1.1e-6,
        "tolerance": 1e-3,
    },
    "precision": None,
}
PRECISION = {
    "precision": "int8",
    "target": "cpu",
    "scheme": "QDQ U8S8",
    "images": "images",
    "calibration_image_count": 4,
    "held_out_image_count": 1,
    "held_out_independent": True,
    "outputs": [
        {"name": "logits", "sqnr_db": None, "cosine": 0.9912, "max_relative_error": 0.1, "top1_agreement": 1.0}
    ],
    "mac_operator_count": 21,
    "converted_mac_operator_count": 20,
    "float_operators": {"HardSwish": 2},
    "note": "random weights: the errors say nothing about accuracy",
}


def shown(path: Path = Path("out/resnet18.onnx"), **changed: Any) -> str:
    text = io.StringIO()
    exported = Exported(SideFiles(path), {**MANIFEST, **changed})
    Console(file=text, width=200, color_system=None).print(export_summary(exported))
    return text.getvalue()


@pytest.mark.parametrize(
    "words",
    [
        "out/resnet18.onnx, 46.7 MB, opset 20",
        "cd" * 32,
        "resnet18.manifest.json, resnet18.reference.npz",
        "random:0, digest abababababababab, 11.69 M parameters, apache-2.0",
        "batchx3x64x96 float32, RGB, bicubic, crop 0.95 (digest efefefefefefefef)",
        "features_0_s2: 64 channels, NHWC, stride 2",
        "logits: 1000 channels, NC",
        "within 1.1e-06 of torch 2.13.0 on 3 photographs at 64x96, 128x128 (0.001 is tolerated)",
    ],
)
def test_what_was_written_is_told(words: str) -> None:
    assert words in shown()


def test_a_tag_is_named_with_the_weights_that_it_stands_for() -> None:
    assert shown().startswith("resnet18\n")
    assert shown(model=MODEL | {"weights": "pretrained"}).startswith("resnet18.a1_in1k\n")


def test_what_a_conversion_did_is_told() -> None:
    text = shown(precision=PRECISION)
    assert "int8 for cpu: QDQ U8S8" in text
    assert "on 4 of images" in text
    assert "logits: SQNR — dB, cosine 0.9912, top-1 agrees 100 % on 1 held-out image " in text
    assert "20 of 21 convolutions and matrix products are int8; in float: 2 HardSwish" in text
    assert "random weights: the errors say nothing about accuracy" in text
    assert "int8" not in shown()


def test_a_path_with_brackets_is_shown_as_it_is() -> None:
    text = shown(Path("[bold]/[red]net.onnx"))
    assert "[bold]/[red]net.onnx" in text
    assert "[red]net.manifest.json" in text
