"""Converting a file: the report, the same bytes every time, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import pytest

from backbench.controller.export.calibration import calibration_set, shipped_photographs, shipped_set
from backbench.controller.export.precision import convert
from backbench.domain.errors import InvalidArgument, InvalidImage, InvalidModel, StoreUnusable
from backbench.models.onnx_input import MODEL_KEY, PREPROCESS_KEY, SKELETON_KEY, metadata


@pytest.mark.parametrize(
    ("precision", "target", "least_db"), [("fp16", "cpu", 40), ("int8", "cpu", 12), ("int8", "tensorrt", 12)]
)
def test_a_small_network_keeps_its_outputs(
    graphs: Any, precision: Any, target: Any, least_db: float, tmp_path: Path
) -> None:
    for made in (graphs.cnn(), graphs.transformer()):
        report = graphs.converted(made, tmp_path, precision, target)[1]
        (output,) = report.outputs
        assert output.name == "logits"
        assert output.sqnr_db is not None
        assert output.sqnr_db > least_db
        assert output.cosine is not None
        assert output.cosine > 0.99
        assert output.max_relative_error is not None
        assert 0 < output.max_relative_error < 0.2
        assert output.top1_agreement is not None


def test_the_model_states_its_new_precision_and_keeps_the_rest(graphs: Any, tmp_path: Path) -> None:
    result, _ = graphs.converted(graphs.cnn(), tmp_path, "int8", "cpu")
    props = metadata(result)
    facts = json.loads(props[MODEL_KEY])
    assert props.keys() == {MODEL_KEY, PREPROCESS_KEY}
    assert json.loads(props[PREPROCESS_KEY]) == graphs.preprocess
    assert (facts["name"], facts["precision"], facts["target"]) == ("tiny", "int8", "cpu")
    assert facts["quantization"]["calibration_image_count"] == len(shipped_set().calibration)
    half = metadata(graphs.converted(graphs.cnn(), tmp_path, "fp16", "cpu")[0])
    assert json.loads(half[MODEL_KEY])["quantization"] is None


def test_a_model_that_says_nothing_of_itself_is_converted_and_its_preprocessing_is_assumed(
    graphs: Any, tmp_path: Path
) -> None:
    result, report = graphs.converted(graphs.cnn(facts=None), tmp_path, "int8", "cpu")
    assert not result.metadata_props
    assert report.preprocess_assumed
    assert (report.weights, report.note, report.outputs[0].top1_agreement) == (None, None, None)


def test_random_weights_are_said_to_say_nothing(graphs: Any, tmp_path: Path) -> None:
    report = graphs.converted(graphs.cnn(facts=graphs.facts | {"weights": "random:0"}), tmp_path, "int8", "cpu")[1]
    assert report.weights == "random:0"
    assert report.note == "random weights: the errors say nothing about accuracy"


def test_a_single_image_judges_what_it_calibrated_and_the_report_says_so(graphs: Any, tmp_path: Path) -> None:
    one = calibration_set(shipped_photographs()[:1])
    report = graphs.converted(graphs.cnn(), tmp_path, "int8", "cpu", inputs=one)[1]
    assert (report.calibration_image_count, report.held_out_image_count) == (1, 1)
    assert not report.held_out_independent
    assert report.image_source == "images"


def test_a_batch_is_filled_and_gives_the_same_figures_as_single_images(graphs: Any, tmp_path: Path) -> None:
    images = calibration_set(shipped_photographs())
    one = graphs.converted(graphs.cnn(), tmp_path, "int8", "cpu", inputs=images)[1]
    four = graphs.converted(graphs.cnn(dims=(4, 3, 32, 32)), tmp_path, "int8", "cpu", inputs=images)[1]
    assert four.outputs[0].sqnr_db == pytest.approx(one.outputs[0].sqnr_db, abs=0.1)
    assert replace(four, outputs=(), size_bytes=0, source_size_bytes=0, executed=None) == replace(
        one, outputs=(), size_bytes=0, source_size_bytes=0, executed=None
    )


def test_a_report_is_a_document(graphs: Any, tmp_path: Path) -> None:
    for how in (("fp16", "cpu"), ("int8", "cpu"), ("int8", "tensorrt")):
        document = graphs.converted(graphs.cnn(), tmp_path, *how)[1].to_document()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
        assert document["schema"] == "backbench.precision/1"
        assert document["sqnr_mean_removed"] is True


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_another_process_makes_the_same_bytes(graphs: Any, target: Any, tmp_path: Path) -> None:
    source = graphs.saved(graphs.transformer(), tmp_path)
    convert(source, tmp_path / "here.onnx", "int8", target)
    convert(source, tmp_path / "half.onnx", "fp16", target)
    program = (
        "import sys; from pathlib import Path; from backbench.controller.export.precision import convert\n"
        "source, folder, target = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "convert(source, folder / 'there.onnx', 'int8', target); convert(source, folder / 'half2.onnx', 'fp16', target)"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(source), str(tmp_path), target],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "77"},
    )
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()
    assert (tmp_path / "half.onnx").read_bytes() == (tmp_path / "half2.onnx").read_bytes()


@pytest.mark.parametrize(("precision", "target"), [("fp16", "cpu"), ("int8", "cpu"), ("int8", "tensorrt")])
def test_nothing_is_left_behind_printed_or_told_of_this_machine(
    graphs: Any,
    precision: Any,
    target: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    handlers = list(logging.getLogger().handlers)
    result, _ = graphs.converted(graphs.cnn(), tmp_path, precision, target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["result.onnx", "scratch", "source.onnx"]
    data = (tmp_path / "result.onnx").read_bytes()
    assert not [mark for mark in (str(tmp_path), "source.onnx", "backbench-", "ort.quant") if mark.encode() in data]
    assert not any(node.doc_string or node.metadata_props for node in result.graph.node)
    assert not result.graph.value_info
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert logging.root.manager.disable == 0


def open_batch(graphs: Any) -> onnx.ModelProto:
    made: onnx.ModelProto = graphs.cnn(dims=("batch", 3, 32, 32))
    return made


def open_size(graphs: Any) -> onnx.ModelProto:
    made: onnx.ModelProto = graphs.cnn(dims=(1, 3, "height", "width"))
    return made


def quantized_already(graphs: Any) -> onnx.ModelProto:
    made: onnx.ModelProto = graphs.cnn()
    made.graph.initializer.extend(
        [onh.from_array(np.float32(0.1), "scale"), onh.from_array(np.array(0, np.uint8), "zero")]
    )
    made.graph.node[0].input[0] = "back"
    made.graph.node.insert(0, oh.make_node("DequantizeLinear", ["there", "scale", "zero"], ["back"]))
    made.graph.node.insert(0, oh.make_node("QuantizeLinear", ["image", "scale", "zero"], ["there"]))
    return made


def halved(graphs: Any) -> onnx.ModelProto:
    made: onnx.ModelProto = graphs.cnn(elem_type=onnx.TensorProto.FLOAT16)
    for tensor in made.graph.initializer:
        tensor.CopyFrom(onh.from_array(onh.to_array(tensor).astype(np.float16), tensor.name))
    return made


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (open_batch, r"it takes batchx3x32x32; fix its size and batch first"),
        (open_size, r"fix its size and batch first"),
        (quantized_already, "quantized already; convert the fp32 model"),
        (halved, "its input is float16; convert the fp32 model"),
    ],
)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_model_that_cannot_be_converted_is_refused(
    graphs: Any, make: Any, text: str, precision: Any, tmp_path: Path
) -> None:
    source = graphs.saved(make(graphs), tmp_path)
    with pytest.raises(InvalidModel, match=text):
        convert(source, tmp_path / "result.onnx", precision, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]


def test_an_fp16_model_with_fp32_ends_is_refused(graphs: Any, tmp_path: Path) -> None:
    graphs.converted(graphs.cnn(), tmp_path, "fp16", "cpu")
    with pytest.raises(InvalidModel, match="in fp16 already"):
        convert(tmp_path / "result.onnx", tmp_path / "again.onnx", "int8", "cpu")


def test_a_skeleton_is_refused(graphs: Any, tmp_path: Path) -> None:
    skeleton = graphs.cnn()
    oh.set_model_props(skeleton, {SKELETON_KEY: "{}"})
    with pytest.raises(InvalidModel, match="materialise it first"):
        convert(graphs.saved(skeleton, tmp_path), tmp_path / "result.onnx", "int8", "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]


def test_a_damaged_image_is_named_and_nothing_is_written(graphs: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(InvalidImage, match=r"bad\.png"):
        graphs.converted(graphs.cnn(), tmp_path, "int8", "cpu", inputs=calibration_set([tmp_path / "bad.png"]))
    assert not (tmp_path / "result.onnx").exists()


def test_a_missing_folder_is_named_before_the_work_begins(graphs: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="create it first"):
        convert(graphs.saved(graphs.cnn(), tmp_path), tmp_path / "nowhere" / "result.onnx", "int8", "cpu")


def test_without_onnx_runtime_the_remedy_is_named(graphs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InvalidArgument, match=r"pip install 'backbench\[controller\]'"):
        convert(graphs.saved(graphs.cnn(), tmp_path), tmp_path / "result.onnx", "int8", "cpu")
