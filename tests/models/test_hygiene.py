"""Taking traces away: nothing of where a model was made stays, wherever it is, and what is computed stays the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from numpy.typing import NDArray

from backbench.models.hygiene import content_sha256, strip

Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]
SmallModel = Callable[[float], onnx.ModelProto]
TRACE = "/home/me/secret.py"


def entry(key: str) -> onnx.StringStringEntryProto:
    return onnx.StringStringEntryProto(key=key, value=TRACE)


def branch(name: str, value: float) -> onnx.GraphProto:
    """A sub-graph that is full of traces."""
    constant = onnx.numpy_helper.from_array(np.array([value], np.float32), f"{name}.constant")
    constant.doc_string = TRACE
    node = onnx.helper.make_node("Constant", [], [f"{name}.a"], value=constant, doc_string=TRACE)
    node.attribute[0].doc_string = TRACE
    node.metadata_props.append(entry("stack"))
    offset = onnx.numpy_helper.from_array(np.array([value], np.float32), f"{name}.offset")
    offset.doc_string = TRACE
    graph = onnx.helper.make_graph(
        [node, onnx.helper.make_node("Add", [f"{name}.a", f"{name}.offset"], [name])],
        name,
        [],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1], doc_string=TRACE)],
        [offset],
        doc_string=TRACE,
        value_info=[onnx.helper.make_tensor_value_info(f"{name}.a", onnx.TensorProto.FLOAT, [1], doc_string=TRACE)],
    )
    graph.metadata_props.append(entry("graph"))
    return graph


def traced_model() -> onnx.ModelProto:
    """A model with traces in every place that onnx has for them: functions, sub-graphs, tensors, attributes."""
    condition = onnx.numpy_helper.from_array(np.array(True), "condition")
    condition.metadata_props.append(entry("tensor"))
    function = onnx.helper.make_function(
        "own", "Twice", ["x"], ["y"],
        [onnx.helper.make_node("Add", ["x", "x"], ["y"], doc_string=TRACE)],
        [onnx.helper.make_opsetid("", 20)],
        attribute_protos=[onnx.helper.make_attribute("unused", 1, doc_string=TRACE)],
        doc_string=TRACE,
        value_info=[onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1], doc_string=TRACE)],
    )  # fmt: skip
    function.metadata_props.append(entry("function"))
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 4, 4], doc_string=TRACE)
    image.metadata_props.append(entry("input"))
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node(
                "If", ["condition"], ["a"], then_branch=branch("yes", 1.0), else_branch=branch("no", 2.0)
            ),
            onnx.helper.make_node("Mul", ["image", "a"], ["b"]),
            onnx.helper.make_node("Twice", ["b"], ["c"], domain="own"),
        ],
        "g",
        [image],
        [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1, 3, 4, 4], doc_string=TRACE)],
        [condition],
        doc_string=TRACE,
        value_info=[onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1, 3, 4, 4], doc_string=TRACE)],
    )
    graph.metadata_props.append(entry("graph"))
    model = onnx.helper.make_model(
        graph,
        functions=[function],
        opset_imports=[onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("own", 1)],
        ir_version=10,
        doc_string=TRACE,
    )
    model.metadata_props.extend([entry("trace"), onnx.StringStringEntryProto(key="backbench.model", value="{}")])
    model.training_info.add().algorithm.doc_string = TRACE
    return model


def test_no_trace_stays_anywhere_in_a_model() -> None:
    model = traced_model()
    assert model.SerializeToString().count(TRACE.encode()) > 20
    strip(model)
    assert b"/home" not in model.SerializeToString()


def test_metadata_of_backbench_stays_and_other_metadata_does_not() -> None:
    model = traced_model()
    strip(model)
    assert [(prop.key, prop.value) for prop in model.metadata_props] == [("backbench.model", "{}")]


def test_a_stripped_model_gives_the_same_numbers(outputs: Outputs) -> None:
    model, image = traced_model(), np.random.default_rng(0).standard_normal((1, 3, 4, 4), dtype=np.float32)
    before = outputs(model, image)[0]
    strip(model)
    onnx.checker.check_model(model)
    assert np.array_equal(outputs(model, image)[0], before)
    assert np.array_equal(before, image * 4)


def test_stripping_a_second_time_changes_nothing(small_model: SmallModel) -> None:
    model = small_model(0.0)
    strip(model)
    once = model.SerializeToString(deterministic=True)
    strip(model)
    assert model.SerializeToString(deterministic=True) == once


def test_the_content_digest_hangs_on_what_is_computed_and_not_on_metadata(small_model: SmallModel) -> None:
    model, other = small_model(0.0), small_model(0.0)
    del other.metadata_props[:]
    assert content_sha256(model) == content_sha256(other)
    assert len(model.metadata_props) == 2
    assert content_sha256(small_model(1.0)) != content_sha256(model)


@pytest.mark.parametrize("change", ["weight", "attribute", "operator"])
def test_the_content_digest_shows_any_change_of_the_graph(change: str, small_model: SmallModel) -> None:
    model = small_model(0.0)
    before = content_sha256(model)
    if change == "weight":
        data = model.graph.initializer[0].raw_data
        model.graph.initializer[0].raw_data = data[:-1] + bytes([data[-1] ^ 1])
    elif change == "attribute":
        model.graph.node[0].attribute[0].ints[0] += 1
    else:
        model.graph.node[1].op_type = "Div"
    assert content_sha256(model) != before
