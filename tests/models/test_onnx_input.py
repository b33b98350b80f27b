"""Ordinary ONNX files: what they take, fixing them to a size, and refusing what cannot be profiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from numpy.typing import NDArray

from backbench.domain.errors import InvalidModel, ShapeMismatch
from backbench.domain.preprocess import Preprocess
from backbench.models.catalog import skeleton_path
from backbench.models.onnx_input import (
    dims_of,
    frame_for_size,
    inspect_input,
    onnx_for_size,
    sized_model,
    without_weights,
)

Dims = list[int | str | None]
Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]
ZERO_STD = '{"mean":[0,0,0],"std":[1,0,1],"interpolation":"bicubic","crop_ratio":1}'
SYMBOLIC: Dims = ["n", 3, "h", "w"]


def model_taking(dims: Dims, dtype: int = onnx.TensorProto.FLOAT, inputs: int = 1) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((32, 3, 5, 5)).astype(np.float32)
    names = ["image", "second"][:inputs]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "weight"], ["features"], strides=[2, 2])],
        "g",
        [onnx.helper.make_tensor_value_info(name, dtype, dims) for name in names],
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["n", 32, "rows", "columns"])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def saved(model: onnx.ModelProto, folder: Path, name: str = "user.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path) -> str:
    """The text with which a file is refused, which is one line and begins with the file."""
    with pytest.raises(InvalidModel) as error:
        inspect_input(path)
    with pytest.raises(InvalidModel):
        onnx_for_size(path, path.with_name("out.onnx"), batch=1, height=32, width=32)
    assert not path.with_name("out.onnx").exists()
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 250
    return text


def test_a_model_is_described(tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    stated = {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.2, 0.3], "interpolation": "bilinear", "crop_ratio": 1.0}
    model.metadata_props.append(onnx.StringStringEntryProto(key="backbench.preprocess", value=json.dumps(stated)))
    contract = inspect_input(saved(model, tmp_path))
    assert (contract.name, contract.dims, contract.dtype) == ("image", ("n", 3, "h", "w"), "float")
    assert [(output.name, output.dims) for output in contract.outputs] == [("features", ("n", 32, "rows", "columns"))]
    assert (contract.opset, contract.parameters, contract.skeleton) == (17, 2400, False)
    assert contract.preprocess == Preprocess((0.5, 0.5, 0.5), (0.1, 0.2, 0.3), "bilinear", 1.0)


@pytest.mark.parametrize(
    ("facts", "precision"),
    [('{"precision":"fp16"}', "fp16"), ('{"precision":"int8"}', "int8"), ('{"precision":"fp8"}', None),
     ('{"precision":["fp16"]}', None), ('{"target":1}', None), ("{}", None)],
)  # fmt: skip
def test_the_precision_is_what_the_model_states(facts: str, precision: str | None, tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    model.metadata_props.append(onnx.StringStringEntryProto(key="backbench.model", value=facts))
    assert inspect_input(saved(model, tmp_path)).precision == precision


@pytest.mark.parametrize("facts", ["[]", "no JSON", "[" * 100_000], ids=["a list", "no JSON", "very deep"])
def test_a_model_that_states_nonsense_of_itself_is_refused(facts: str, tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    model.metadata_props.append(onnx.StringStringEntryProto(key="backbench.model", value=facts))
    with pytest.raises(InvalidModel, match=r"metadata 'backbench.model' is not .*; remove it"):
        inspect_input(saved(model, tmp_path))


def test_a_model_that_states_no_preprocessing_has_none(tmp_path: Path) -> None:
    assert inspect_input(saved(model_taking([1, 3, 32, None]), tmp_path)).preprocess is None
    assert inspect_input(tmp_path / "user.onnx").dims == (1, 3, 32, "?")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", ZERO_STD, ZERO_STD.replace("[1,0,1]", "[1,1]"), ZERO_STD.replace("[1,0,1]", f"[1,{10**400},1]"),
     ZERO_STD.replace("[1,0,1]", '"x\\ny"'), "[" * 100_000],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_preprocessing_that_cannot_be_used_is_refused(text: str, tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    model.metadata_props.append(onnx.StringStringEntryProto(key="backbench.preprocess", value=text))
    with pytest.raises(InvalidModel, match=r"'backbench\.preprocess' cannot be used") as error:
        inspect_input(saved(model, tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dims", [SYMBOLIC, [2, 3, 64, 48], [None, 3, None, None], [2, 3, "h", "w"]])
def test_the_input_and_the_outputs_are_fixed_to_the_size(dims: Dims, tmp_path: Path, outputs: Outputs) -> None:
    fixed = tmp_path / "fixed.onnx"
    onnx_for_size(saved(model_taking(dims), tmp_path), fixed, batch=2, height=64, width=48)
    contract = inspect_input(fixed)
    assert contract.dims == (2, 3, 64, 48)
    assert contract.outputs[0].dims == (2, 32, 30, 22)
    assert outputs(fixed, np.zeros((2, 3, 64, 48), np.float32))[0].shape == (2, 32, 30, 22)


def test_fixing_a_model_changes_none_of_its_numbers(tmp_path: Path, outputs: Outputs) -> None:
    source, fixed = saved(model_taking(SYMBOLIC), tmp_path), tmp_path / "fixed.onnx"
    onnx_for_size(source, fixed, batch=1, height=32, width=32)
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    before, after = (outputs(path, image)[0] for path in (source, fixed))
    assert np.array_equal(before, after)


def test_a_fixed_dimension_that_differs_is_refused_with_what_is_taken(tmp_path: Path) -> None:
    source = saved(model_taking(["n", 3, 64, 64]), tmp_path)
    with pytest.raises(ShapeMismatch, match=r"the model takes nx3x64x64 .* not 1x3x32x32"):
        onnx_for_size(source, tmp_path / "out.onnx", batch=1, height=32, width=32)


def test_a_size_at_which_the_graph_does_not_work_is_refused(tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 32, 14, 14), np.float32), "grid"))
    model.graph.node[0].output[0] = "patches"
    model.graph.node.append(onnx.helper.make_node("Add", ["patches", "grid"], ["features"]))
    source = saved(model, tmp_path)
    onnx_for_size(source, tmp_path / "out.onnx", batch=1, height=32, width=32)
    with pytest.raises(ShapeMismatch, match="does not work at 64x64"):
        onnx_for_size(source, tmp_path / "out.onnx", batch=1, height=64, width=64)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"hello, this is no model",
        b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(2000),
        b"PK\x03\x04" + bytes(100),
        np.random.default_rng(3).bytes(4096),
        np.random.default_rng(4).bytes(1 << 20),
    ],
    ids=["empty", "zero", "text", "jpeg", "zip", "random", "random-megabyte"],
)
def test_a_file_that_is_no_model_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(data)
    refusal(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.onnx")


@pytest.mark.parametrize("part", [0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused_wherever_it_was_cut(part: float, mobilenet: Path, tmp_path: Path) -> None:
    data = mobilenet.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * part)])
    assert "truncated" in refusal(path)


def test_a_model_cut_between_its_fields_is_refused(tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    model.ClearField("opset_import")
    assert "no opset" in refusal(saved(model, tmp_path))


def test_weights_that_are_shorter_than_their_shape_are_refused(tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:100]
    assert "the weights of 'weight' are cut short" in refusal(saved(model, tmp_path))


@pytest.mark.parametrize(
    ("dims", "dtype"),
    [
        ([1, 224, 224, 3], onnx.TensorProto.FLOAT),
        ([1, 1, 224, 224], onnx.TensorProto.FLOAT),
        ([1, 3, 224], onnx.TensorProto.FLOAT),
        ([1, 3, 224, 224], onnx.TensorProto.UINT8),
    ],
)
def test_an_input_that_is_no_float_image_is_refused_with_what_it_is(dims: Dims, dtype: int, tmp_path: Path) -> None:
    assert "x".join(str(dim) for dim in dims) in refusal(saved(model_taking(dims, dtype), tmp_path))


def test_a_model_with_two_inputs_is_refused(tmp_path: Path) -> None:
    assert "it has 2 (image, second)" in refusal(saved(model_taking(SYMBOLIC, inputs=2), tmp_path))


def test_an_input_of_a_type_that_onnx_does_not_have_is_refused(tmp_path: Path) -> None:
    assert "is type 99 nx3xhxw" in refusal(saved(model_taking(SYMBOLIC, dtype=99), tmp_path))


@pytest.mark.parametrize("name", ["a\nb", "x" * 10_000, "\x1b[31mred"])
def test_names_that_would_break_or_fill_the_line_are_shown_harmless(name: str, tmp_path: Path) -> None:
    model = model_taking([1, 1, name, "w"])
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    assert "\x1b" not in refusal(saved(model, tmp_path))
    model.graph.input.append(model.graph.input[0])
    assert "\x1b" not in refusal(saved(model, tmp_path))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    data = model_taking(SYMBOLIC).SerializeToString()
    (tmp_path / "user.onnx").write_bytes(data.replace(b"features", b"feature\xff"))
    assert "a name is no text" in refusal(tmp_path / "user.onnx")


def test_a_graph_that_onnx_cannot_work_out_at_all_is_refused_as_no_sound_model(tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    model.graph.node[0].output[0] = "patches"
    model.graph.initializer.append(onnx.TensorProto(name="shape", data_type=39, dims=[2], raw_data=bytes(16)))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["patches", "shape"], ["features"]))
    with pytest.raises(InvalidModel, match="not a sound ONNX model") as error:
        frame_for_size(model, tmp_path / "m.onnx", batch=1, height=32, width=32)
    assert "\n" not in str(error.value)


def test_every_intermediate_shape_is_worked_out_for_the_size(tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    model.graph.node[0].output[0] = "patches"
    model.graph.node.append(onnx.helper.make_node("Relu", ["patches"], ["features"]))
    graph = sized_model(model, tmp_path, batch=2, height=64, width=48).graph
    assert [(value.name, dims_of(value)) for value in graph.value_info] == [("patches", (2, 32, 30, 22))]
    assert not graph.initializer[0].HasField("raw_data")
    assert model.graph.initializer[0].HasField("raw_data")


@pytest.mark.parametrize("skeleton", [True, False])
def test_a_frame_has_neither_initialisers_nor_intermediate_shapes(skeleton: bool, tmp_path: Path) -> None:
    model = model_taking(SYMBOLIC)
    if skeleton:
        model.graph.initializer[0].ClearField("raw_data")
    frame = frame_for_size(model, tmp_path, batch=1, height=32, width=32)
    assert (len(frame.graph.initializer), len(frame.graph.value_info)) == (0, 0)
    assert dims_of(frame.graph.output[0]) == (1, 32, 14, 14)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8, np.int64])
def test_large_weights_are_left_out_and_whole_numbers_stay(dtype: type[np.generic]) -> None:
    model = model_taking(SYMBOLIC)
    for count, name in ((1024, "large"), (1023, "small")):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(count, dtype), name))
    kept = {tensor.name: tensor.HasField("raw_data") for tensor in without_weights(model).graph.initializer}
    assert kept == {"weight": False, "large": dtype is np.int64, "small": True}


def test_a_skeleton_is_not_taken_for_a_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="materialise it"):
        onnx_for_size(skeleton_path("resnet50"), tmp_path / "out.onnx", batch=1, height=224, width=224)
