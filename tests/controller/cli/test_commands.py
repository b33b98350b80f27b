"""Every command against a real agent."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backbench.controller.operations import roofline
from backbench.controller.operations.roofline_models import Sizes

MODEL = "mobilenetv3_large_100"
QUICK = (MODEL, "--device", "here", "--size", "32", "--frames", "20", "--warmup", "2", "--no-memory-pass")


@pytest.fixture(scope="module")
def broken_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "broken.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    return path


def test_devices_are_added_listed_shown_and_removed(here: Any, address: str) -> None:
    assert "here" in here("device", "list").out
    listed = here("device", "list", "--json").json
    assert (listed["schema"], [device["name"] for device in listed["devices"]]) == ("backbench.devices/1", ["here"])
    shown = here("device", "show", "here", "--json").json
    assert shown["address"] == address
    assert "onnxruntime" in [backend["name"] for backend in shown["device"]["backends"]]
    assert "onnxruntime" in here("device", "show", "here").out
    here("device", "remove", "here")
    assert "No devices" in here("device", "list").out
    assert "here" in here("device", "show", "here", status=2).err


def test_a_device_that_does_not_answer_is_status_3_and_what_it_said_last_is_shown(here: Any) -> None:
    assert "127.0.0.1:1" in here("device", "add", "gone", "127.0.0.1:1", status=3).err
    here("device", "add", "gone", "127.0.0.1:1", "--no-check")
    assert "no agent answers" in here("device", "show", "gone", status=3).err
    refused = here("profile", MODEL, "--device", "gone", "--frames", "20", status=3)
    assert refused.err.count("\n") == 1
    assert here("run", "list", "--json").json["runs"] == []


def test_a_roofline_is_measured_once_and_shown_from_then_on(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Sizes(channels=32, side=8, layers=2, tensor_bytes=1 << 20, steps=2, frames=8, warmup=1)
    monkeypatch.setattr(roofline, "measure_roofline", partial(roofline.measure_roofline, sizes=tiny))
    assert here("device", "show", "here", "--json").json["roofline"] is None
    assert "Roofline" not in here("device", "show", "here").out
    measured = here("device", "show", "here", "--roofline", "--json")
    peaks = measured.json["roofline"]
    assert peaks["peak_flops_per_s"] / peaks["peak_bytes_per_s"] == peaks["ridge_flop_per_byte"]
    assert "roofline-memory" in measured.err
    for words in ("GFLOP/s", "GB/s", "FLOP/byte", f"{peaks['threads']} thread", peaks["backend"]):
        assert words in here("device", "show", "here").out
    assert here("device", "list", "--json").json["devices"][0]["roofline"] == peaks
    assert here("run", "list", "--json").json["runs"] == []
    here("device", "add", "gone", "127.0.0.1:1", "--no-check")
    assert here("device", "show", "gone", "--roofline", status=3).err.count("\n") == 1
    assert "nowhere" in here("device", "show", "nowhere", "--roofline", status=2).err


def test_models_are_listed(backbench: Any) -> None:
    assert MODEL in backbench("models").out
    assert MODEL in [model["name"] for model in backbench("models", "--json").json["models"]]


def test_files_are_pushed_by_what_they_are(here: Any, tmp_path: Path) -> None:
    image = tmp_path / "one.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(image)
    pushed = here("push", MODEL, str(image), "--device", "here", "--json").json
    assert [(artifact["kind"], artifact["name"]) for artifact in pushed["artifacts"]] == [
        ("skeleton", MODEL),
        ("image", "one.png"),
    ]
    lines = here("push", str(tmp_path), "--device", "here").out.splitlines()
    assert lines == [f"{pushed['artifacts'][1]['sha256']}  image  one.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "p99<30ms"), 'only "<=" can be asked'),
        (("--size", "huge"), "not a size"),
        (("--size", "8"), "from 32 pixels up"),
        (("--frames", "0"), "--frames is 0"),
        (("--frames", "99999999999"), "--frames and --warmup together"),
        (("--backend", "tflite"), "no such backend; it has"),
        (("--precision", "int4"), "--precision"),
        (("--inputs", "no/such/folder"), "no such file or folder"),
        (("--device", "nowhere"), "nowhere"),
        (("--timeout", "0"), "--timeout"),
    ],
)
def test_bad_input_is_one_line_status_2_and_starts_nothing(here: Any, arguments: tuple[str, str], words: str) -> None:
    refused = here("profile", *QUICK, *arguments, status=2)
    assert refused.out == ""
    assert refused.err.startswith("backbench: error: ")
    assert refused.err.count("\n") == 1
    assert words in refused.err
    assert here("run", "list", "--json").json["runs"] == []


def test_a_misspelt_backbone_gets_a_suggestion(here: Any) -> None:
    refused = here("profile", "mobilenetv3_large", *QUICK[1:], status=2)
    assert f"did you mean {MODEL}" in refused.err


def test_an_image_that_cannot_be_decoded_is_named(here: Any, broken_image: Path) -> None:
    assert "broken.png" in here("profile", *QUICK, "--inputs", str(broken_image), status=2).err


def test_one_model_gives_one_document_and_its_verdict_is_the_status(here: Any) -> None:
    passed = here("profile", *QUICK, "--budget", "max<=10s", "--json")
    assert passed.json["schema"] == "backbench.run/1"
    assert passed.json["verdict"] == "pass"
    assert "1 of 1" in passed.err
    run_id = passed.json["run_id"]
    failed = here("profile", *QUICK, "--budget", "max<=1ns", "--json", status=1)
    assert failed.json["verdict"] == "reject"
    short = failed.json["run_id"][-8:]

    assert here("run", "show", run_id, "--json").json == passed.json
    assert here("run", "show", short, "--json", status=1).json == failed.json
    assert here("run", "follow", short, "--json", status=1).json == failed.json
    here("run", "cancel", short)
    listed = here("run", "list").out
    assert run_id[-8:] in listed
    assert short in listed


def test_several_models_give_one_document_too_and_can_be_compared(here: Any) -> None:
    both = here("profile", MODEL, *QUICK, "--json").json
    assert both["schema"] == "backbench.runs/1"
    first, second = (run["run_id"] for run in both["runs"])
    compared = here("compare", first, second)
    assert MODEL in compared.out
    assert here("compare", first, status=2).err.count("\n") == 1
    assert here("compare", first, "nothing-like-it", status=2).out == ""


def test_runs_under_other_conditions_have_no_common_verdict(here: Any) -> None:
    one = here("profile", *QUICK, "--threads", "1", "--json").json["run_id"]
    two = here("profile", *QUICK, "--threads", "2", "--json").json["run_id"]
    refused = here("compare", one, two, status=1)
    assert "no verdict: environments differ" in refused.out
    assert "threads" in refused.out
    assert MODEL in here("compare", one, two, "--across").out


def test_what_cannot_be_judged_is_status_4_when_strict(here: Any) -> None:
    arguments = (*QUICK, "--budget", "p99<=10s")
    here("profile", *arguments)
    here("profile", *arguments, "--strict", status=4)


def test_every_frame_is_exported(here: Any, tmp_path: Path) -> None:
    run_id = here("profile", *QUICK, "--json").json["run_id"]
    here("run", "export", run_id, "--to", str(tmp_path / "frames.csv"))
    with (tmp_path / "frames.csv").open() as file:
        assert [int(row["index"]) for row in csv.DictReader(file)] == list(range(22))
    here("run", "export", run_id, "--to", str(tmp_path / "no" / "frames.csv"), status=2)
    here("run", "export", run_id, "--to", str(tmp_path / "frames.docx"), status=2)


def test_a_model_that_the_backend_refuses_is_bad_input(here: Any, tmp_path: Path) -> None:
    import onnx
    import onnx.helper as make

    image = make.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 3, 32, 32))
    out = make.make_tensor_value_info("out", onnx.TensorProto.FLOAT, (1, 3, 32, 32))
    node = make.make_node("NoSuchOperator", ["image"], ["out"], domain="nobody")
    graph = make.make_graph([node], "odd", [image], [out])
    opsets = [make.make_opsetid("", 18), make.make_opsetid("nobody", 1)]
    onnx.save(make.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "odd.onnx")
    refused = here("profile", str(tmp_path / "odd.onnx"), *QUICK[1:], "--json", status=2)
    assert refused.json["state"] == "failed"
    assert refused.json["failure"]["reason"] == "invalid_model"


def test_a_store_can_be_named_on_the_command_line(here: Any, tmp_path: Path) -> None:
    assert "No devices" in here("--store", str(tmp_path / "other"), "device", "list").out
    (tmp_path / "file").write_text("not a folder")
    assert here("--store", str(tmp_path / "file"), "device", "list", status=None).status in (2, 3)
