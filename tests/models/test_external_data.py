"""Models that keep weights in other files: read with these, and made one file; nothing outside the bundle is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backbench.domain.errors import InvalidModel
from backbench.models.external_data import read_bundle
from backbench.models.graph import shaped_graph
from backbench.models.onnx_file import read_model
from backbench.models.onnx_input import inspect_input, onnx_for_size

WEIGHTS = np.random.default_rng(0).normal(size=(32, 3, 5, 5)).astype(np.float32)


def a_model() -> onnx.ModelProto:
    """A convolution, then a reshape to a shape that is a constant of the graph."""
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.full(1, 2, np.float32), "two")),
        helper.make_node("Mul", ["flat", "two"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 32])],
        [numpy_helper.from_array(WEIGHTS, "weight"), numpy_helper.from_array(np.array([1, 32]), "shape")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The model with everything in another file, the constant in a node's attribute included."""
    path = tmp_path / "model.onnx"
    onnx.save_model(
        a_model(), path, save_as_external_data=True, location="all.data", size_threshold=0, convert_attribute=True
    )
    return path


def renamed(path: Path, location: str, key: str = "location") -> Path:
    """The model with another entry for where its weights lie."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InvalidModel) as caught:
        inspect_input(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    return caught.value.message


def test_the_one_file_that_is_made_of_it_computes_the_same(path: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    image = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)
    made = tmp_path / "elsewhere" / "made.onnx"
    made.parent.mkdir()
    onnx_for_size(path, made, batch=1, height=16, width=16)
    whole = tmp_path / "whole.onnx"
    onnx.save(a_model(), whole)
    outputs = [
        onnxruntime.InferenceSession(str(each), providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
        for each in (made, whole)
    ]
    np.testing.assert_array_equal(*outputs)


def test_files_may_lie_anywhere_when_they_are_given_by_hand(path: Path, tmp_path: Path) -> None:
    elsewhere = (path.parent / "all.data").rename(tmp_path / "0123abcd")
    made = tmp_path / "made.onnx"
    onnx_for_size(path, made, batch=1, height=16, width=16, files={"all.data": elsewhere})
    assert numpy_helper.to_array(read_model(made).graph.initializer[0]).tobytes() == WEIGHTS.tobytes()


def test_it_is_inspected_as_if_it_were_one_file(path: Path) -> None:
    contract = inspect_input(path)
    assert contract.external == ("all.data",)
    assert contract.parameters == WEIGHTS.size
    graph = shaped_graph(path, batch=1, height=16, width=16).graph
    assert [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == [1, 32]


def test_weights_stay_in_their_file_until_they_are_written(path: Path) -> None:
    weight, shape = read_bundle(path).model.graph.initializer
    assert not weight.raw_data
    assert numpy_helper.to_array(shape).tolist() == [1, 32]


def test_what_takes_one_file_alone_says_so(path: Path) -> None:
    with pytest.raises(InvalidModel, match="lie in another file"):
        read_model(path)


@pytest.mark.parametrize("location", ["../all.data", "/etc/hostname", "sub/../../all.data", "..\\all.data"])
def test_a_path_that_leaves_the_model_s_folder_is_refused_and_named(location: str, path: Path) -> None:
    assert ascii(location) in refusal(renamed(path, location))


def test_a_link_is_refused_wherever_it_leads(path: Path, tmp_path: Path) -> None:
    data = tmp_path / "all.data"
    (tmp_path / "real.data").write_bytes(data.read_bytes())
    data.unlink()
    data.symlink_to("real.data")
    assert f"{data}, which is a link" in refusal(path)


def test_a_folder_that_is_a_link_is_refused_too(path: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path)
    assert "linked, which is a link" in refusal(renamed(path, "linked/all.data"))


def test_a_file_that_is_missing_or_none_is_named(path: Path, tmp_path: Path) -> None:
    assert "gone.data, which cannot be read" in refusal(renamed(path, "gone.data"))
    (tmp_path / "folder").mkdir()
    assert "folder, which is no file" in refusal(renamed(path, "folder"))


def test_a_constant_of_a_node_in_a_file_outside_is_found_too(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    (constant,) = (node for node in model.graph.node if node.op_type == "Constant")
    for entry in constant.attribute[0].t.external_data:
        if entry.key == "location":
            entry.value = "../../secret"
    path.write_bytes(model.SerializeToString())
    assert "'../../secret'" in refusal(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("offset", "-1", "does not hold the weights of 'weight'"),
        ("offset", "999999999", "does not hold the weights of 'weight'"),
        ("offset", "many", "is no number"),
        ("length", "4", "does not hold the weights of 'weight'"),
        ("length", "99999999999999999999", "does not hold the weights of 'weight'"),
    ],
)
def test_a_place_in_the_file_that_cannot_be_is_refused(key: str, value: str, words: str, path: Path) -> None:
    assert words in refusal(renamed(path, value, key))


def test_a_shape_with_a_negative_length_is_refused(path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[0] = -4
    path.write_bytes(model.SerializeToString())
    assert "'weight'" in refusal(path)


def test_a_newer_model_is_refused_with_the_newest_that_is_known(tmp_path: Path) -> None:
    for name in ("IR version", "opset"):
        model = a_model()
        if name == "opset":
            model.opset_import[0].version = 9999
        else:
            model.ir_version = 9999
        path = tmp_path / "newer.onnx"
        onnx.save(model, path)
        assert f"its {name} 9999 is newer than" in refusal(path)
        assert "update onnx" in refusal(path)
