"""Opset 17 from opset 18: the same numbers, a sound model, and a refusal where 17 has no words for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper as oh
import onnx.numpy_helper as onh
import onnx.shape_inference
import onnxruntime as ort
import pytest

from backbench.controller.export.opset_down import to_opset_17
from backbench.controller.export.request import ExportRequest
from backbench.domain.errors import InvalidModel

# What torch says of itself while it exports is not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = (2, 4, 6)


def graph(
    node: onnx.NodeProto, tensors: Sequence[onnx.TensorProto] = (), inputs: Sequence[str] = ("x",)
) -> onnx.ModelProto:
    """A model of opset 18 with one operator."""
    values = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPE) for name in inputs if name == "x"]
    values += [oh.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]) for name in inputs if name != "x"]
    outputs = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output]
    made = oh.make_graph([node], "one", values, outputs, tensors)
    return with_shapes(oh.make_model(made, opset_imports=[oh.make_opsetid("", 18)], ir_version=10))


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model)
    del inferred.graph.value_info[:]
    return inferred


def numbers(name: str, *values: int) -> onnx.TensorProto:
    return onh.from_array(np.array(values, np.int64), name)


def run(model: onnx.ModelProto, image: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    results: list[np.ndarray[Any, Any]] = session.run(None, {session.get_inputs()[0].name: image})
    return results


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    to_opset_17(copy)
    onnx.checker.check_model(copy, full_check=True)
    assert [entry.version for entry in copy.opset_import] == [17]
    assert copy.ir_version == 8
    return copy


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(InvalidModel) as caught:
        to_opset_17(model)
    assert "\n" not in caught.value.message
    assert "opset 17 cannot express" in caught.value.message
    assert "take --opset 18" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "mobilenetv3_large_100",
                "convnext_tiny",
                "vit_tiny_patch16_224",
                "edgenext_xx_small",
                "swin_tiny_patch4_window7_224",
                "efficientformerv2_s0",
                "mobilenetv4_hybrid_medium",
            )
        ),
    ],
)
def test_a_real_backbone_gives_the_same_numbers_in_17(name: str, fresh: Callable[[ExportRequest], Any]) -> None:
    height, width = (96, 112) if name == "test_vit" else (224, 224)
    exported = fresh(ExportRequest(name, height, width, opset=18))
    assert [(entry.domain, entry.version) for entry in exported.onnx.opset_import] == [("", 18)]
    image = np.random.default_rng(1).standard_normal((1, 3, height, width)).astype(np.float32)
    for one, other in zip(run(exported.onnx, image), run(lowered(exported.onnx), image), strict=True):
        assert np.array_equal(one, other)


def test_an_export_in_17_is_in_17_and_says_so(fresh: Callable[[ExportRequest], Any]) -> None:
    import json

    exported = fresh(ExportRequest("mobilenetv3_small_100", 64, 64, opset=17))
    onnx.checker.check_model(exported.onnx, full_check=True)
    assert [(entry.domain, entry.version) for entry in exported.onnx.opset_import] == [("", 17)]
    facts = next(entry.value for entry in exported.onnx.metadata_props if entry.key == "backbench.model")
    assert json.loads(facts)["opset"] == 17
    assert exported.worst_error(64, 64) < 1e-4


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd"])
@pytest.mark.parametrize("axes", [(1,), (-1,), (0, 2)])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_of_reductions_become_attributes(operator: str, axes: tuple[int, ...], keepdims: int) -> None:
    model = graph(oh.make_node(operator, ["x", "axes"], ["y"], keepdims=keepdims), [numbers("axes", *axes)])
    image = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    before, after = run(model, image), run(lowered(model), image)
    assert before[0].shape == after[0].shape
    assert np.array_equal(before[0], after[0])
    assert not lowered(model).graph.initializer


@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("empty", [True, False])
def test_a_reduction_without_axes_is_over_everything_or_nothing(noop: int, empty: bool) -> None:
    inputs = ["x", "axes"] if empty else ["x"]
    node = oh.make_node("ReduceMean", inputs, ["y"], noop_with_empty_axes=noop)
    model = graph(node, [numbers("axes")] if empty else [])
    image = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    assert np.array_equal(run(model, image)[0], run(lowered(model), image)[0])


def test_axes_that_something_else_reads_too_stay() -> None:
    model = graph(oh.make_node("ReduceMean", ["x", "axes"], ["y"]), [numbers("axes", 1), numbers("more", 2)])
    model.graph.node.append(oh.make_node("Unsqueeze", ["y", "axes"], ["z"]))
    model.graph.output[0].CopyFrom(oh.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    assert [tensor.name for tensor in lowered(with_shapes(model)).graph.initializer] == ["axes"]


def test_parts_of_a_split_that_are_counted_are_so_without_counting() -> None:
    model = graph(oh.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2))
    image = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    for one, other in zip(run(model, image), run(lowered(model), image), strict=True):
        assert np.array_equal(one, other)


def test_a_resize_with_default_settings_passes_and_another_is_refused() -> None:
    def resize(**settings: Any) -> onnx.ModelProto:
        scales = onh.from_array(np.array([1, 1, 2], np.float32), "scales")
        return graph(oh.make_node("Resize", ["x", "", "scales"], ["y"], name="grow", **settings), [scales])

    image = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    plain = resize(antialias=0, keep_aspect_ratio_policy="stretch")
    assert np.array_equal(run(plain, image)[0], run(lowered(plain), image)[0])
    assert "grow (a Resize with antialias)" in refusal(resize(mode="linear", antialias=1))
    assert "grow (a Resize with axes)" in refusal(resize(axes=[0, 1, 2]))


def test_what_17_has_no_words_for_is_refused() -> None:
    pads = [numbers("pads", 1, 1), numbers("axes", 2)]
    assert "Pad" in refusal(graph(oh.make_node("Pad", ["x", "pads", "", "axes"], ["y"]), pads))
    assert "its axes are computed" in refusal(graph(oh.make_node("ReduceMax", ["x", "a"], ["y"]), inputs=("x", "a")))
    assert "Mish is newer" in refusal(graph(oh.make_node("Mish", ["x"], ["y"])))


def test_a_pad_without_axes_passes() -> None:
    model = graph(oh.make_node("Pad", ["x", "pads"], ["y"]), [numbers("pads", 0, 0, 1, 0, 0, 1)])
    image = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    assert np.array_equal(run(model, image)[0], run(lowered(model), image)[0])
