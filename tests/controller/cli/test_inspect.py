"""`backbench inspect` on real files and on the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from backbench.controller.store import Store
from backbench.controller.store.records import DeviceRoofline
from backbench.models.onnx_input import MODEL_KEY, PREPROCESS_KEY

MODEL = "mobilenetv3_large_100"
STATED = {
    "schema": "backbench.model/1",
    "name": "two-levels",
    "licence": "apache-2.0",
    "weights": "file",
    "weights_sha256": "ab" * 32,
    "params": 4711,
    "precision": "fp32",
    "outputs": [
        {"name": "fine", "kind": "feature_map", "stride": 2, "channels": 8, "layout": "NCHW", "module": "stem"},
        {"name": "coarse", "kind": "feature_map", "stride": 4, "channels": 16, "layout": "NCHW", "module": None},
    ],
    "exporter": "torch.onnx dynamo",
    "versions": {"torch": "2.13.0"},
}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_ratio": 0.9}


def two_levels(path: Path, **metadata: Any) -> Path:
    """A small feature pyramid of any height and width, with real weights."""
    random = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "w2": (16, 8, 3, 3)}
    window = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["image", "w1"], ["fine"], name="first", **window),
            onnx.helper.make_node("Conv", ["fine", "w2"], ["coarse"], name="second", **window),
        ],
        "two-levels",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, "height", "width"])],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, None, None])
            for name, channels in (("fine", 8), ("coarse", 16))
        ],
        [
            onnx.numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    stated = {MODEL_KEY: json.dumps(STATED), PREPROCESS_KEY: json.dumps(PREPROCESS)}
    return two_levels(tmp_path / "two-levels.onnx", **stated)


def test_a_backbone_is_inspected_at_its_own_size(backbench: Any) -> None:
    document = backbench("inspect", MODEL, "--json").json
    assert (document["schema"], document["model"]["size"]) == ("backbench.inspect/1", [224, 224])
    assert document["graph"]["macs"] == pytest.approx(0.2166e9, abs=5e4)
    assert document["model"]["torch_parameters"] == 5_483_032
    assert document["model"]["preprocess"]["assumed"] is False
    (output,) = document["outputs"]
    assert (output["pooled"], output["context"]) == (True, "gated")
    assert output["map"]["receptive_field_px"] == [595, 595]
    assert output["stated"]["kind"] == "logits"
    assert len(document["operators"]) == sum(document["graph"]["operator_counts"].values())


def test_the_size_and_the_batch_are_those_asked_for(backbench: Any) -> None:
    document = backbench("inspect", MODEL, "--size", "64x96", "--batch", "4", "--json").json
    assert document["graph"]["input_shape"] == [4, 3, 64, 96]
    assert document["outputs"][0]["shape"] == [4, 1000]


def test_the_parameters_in_torch_are_those_at_the_backbone_s_own_size(backbench: Any) -> None:
    assert "5.483 M in torch, " in backbench("inspect", MODEL).out
    assert "5.483 M in torch (at 224x224), " in backbench("inspect", MODEL, "--size", "64").out


def test_a_file_is_shown_with_all_that_it_states(backbench: Any, pyramid: Path) -> None:
    document = backbench("inspect", str(pyramid), "--size", "64", "--json").json
    assert document["graph"]["parameters"] == 8 * 27 + 16 * 72
    assert document["model"]["stated"]["weights_sha256"] == "ab" * 32
    assert (document["model"]["licence"], document["model"]["torch_parameters"]) == ("apache-2.0", 4711)
    assert document["model"]["contradictions"] == []
    assert [(row["map"]["stride_px"], row["map"]["receptive_field_px"]) for row in document["outputs"]] == [
        ([2.0, 2.0], [3, 3]),
        ([4.0, 4.0], [7, 7]),
    ]
    text = backbench("inspect", str(pyramid), "--size", "64").out
    for words in ("two-levels 64x64", "sha256 abababababab", "bilinear", "feature_map", "4.711 k in torch"):
        assert words in text
    assert "assumed" not in text


def test_what_a_file_does_not_say_is_said_to_be_so(backbench: Any, tmp_path: Path) -> None:
    bare = two_levels(tmp_path / "bare.onnx")
    text = backbench("inspect", str(bare), "--size", "32").out
    assert "assumed" in text
    assert "not stated" in text
    document = backbench("inspect", str(bare), "--size", "32", "--json").json
    assert (document["model"]["licence"], document["model"]["weights"], document["model"]["stated"]) == (None,) * 3


def test_a_file_that_states_another_stride_than_its_graph_shows_is_found_out(backbench: Any, tmp_path: Path) -> None:
    outputs = [{"name": "fine", "stride": 8, "channels": 8, "layout": "NCHW"}]
    lying = two_levels(tmp_path / "lying.onnx", **{MODEL_KEY: json.dumps({**STATED, "outputs": outputs})})
    document = backbench("inspect", str(lying), "--size", "32", "--json").json
    assert document["model"]["contradictions"] == ["fine: the file states stride 8, the graph shows 2.0"]


def test_operators_are_listed_costliest_first_on_request(backbench: Any, pyramid: Path) -> None:
    assert "second" not in backbench("inspect", str(pyramid), "--size", "64").out
    listed = backbench("inspect", str(pyramid), "--size", "64", "--layers").out
    assert listed.index("second") < listed.index("first")


@pytest.mark.parametrize("arguments", [(MODEL, "--layers"), (MODEL, "--size", "320x640")])
def test_the_text_fits_a_hundred_columns(
    backbench: Any, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = backbench("inspect", *arguments).out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100


def test_with_a_devices_peak_rates_there_are_lower_bounds(backbench: Any, home: Path, pyramid: Path) -> None:
    backbench("device", "add", "pi5", "127.0.0.1:1", "--no-check")
    command = ("inspect", str(pyramid), "--size", "64", "--device", "pi5")
    refused = backbench(*command, status=2)
    assert "backbench device show pi5 --roofline" in refused.err
    assert refused.err.count("\n") == 1
    with Store.open(home) as store:
        store.put_roofline("pi5", DeviceRoofline(2e10, 8e9, 1, "onnxruntime", "fp32", 4))
    document = backbench(*command, "--json").json
    assert document["roofline"]["ridge_flop_per_byte"] == 2.5
    assert all(row["bound"] in ("compute", "memory") for row in document["operators"])
    text = backbench(*command, "--layers").out
    assert "20.00 GFLOP/s" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


def truncated(folder: Path) -> str:
    path = two_levels(folder / "truncated.onnx")
    path.write_bytes(path.read_bytes()[:200])
    return str(path)


def no_model(folder: Path) -> str:
    path = folder / "notes.onnx"
    path.write_text("not a model", encoding="utf-8")
    return str(path)


def bad_metadata(folder: Path) -> str:
    return str(two_levels(folder / "bad.onnx", **{MODEL_KEY: "[1"}))


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("mobilenetv3_larg_100", (), "did you mean"),
        (MODEL, ("--size", "8"), "does not take 8x8"),
        (MODEL, ("--size", "wide"), "not a size"),
        (MODEL, ("--batch", "0"), "--batch is 0"),
        (MODEL, ("--device", "nowhere"), "nowhere"),
        ("missing.onnx", (), "no file missing.onnx"),
        (two_levels, (), "say which: --size"),
        (two_levels, ("--size", "64", "--batch", "2"), "takes batch 1 only"),
        (truncated, ("--size", "64"), "truncated"),
        (no_model, ("--size", "64"), "not an ONNX model"),
        (bad_metadata, ("--size", "64"), "not JSON"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    backbench: Any, tmp_path: Path, model: Any, arguments: tuple[str, ...], words: str
) -> None:
    if callable(model):
        model = str(model(tmp_path / "levels.onnx" if model is two_levels else tmp_path))
    refused = backbench("inspect", model, *arguments, status=2)
    assert words in refused.err
    assert refused.err.count("\n") == 1
    assert refused.out == ""


def test_inspecting_makes_no_store(backbench: Any, home: Path, pyramid: Path) -> None:
    backbench("inspect", str(pyramid), "--size", "32")
    assert not home.exists()
