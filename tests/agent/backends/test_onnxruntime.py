"""What the ONNX Runtime backend says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from backbench.agent.backends.base import OpenRequest
from backbench.agent.backends.onnxruntime import OnnxRuntimeCpu


def _model(opset: int) -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "relu", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def test_the_newest_opset_is_the_last_that_opens() -> None:
    newest = OnnxRuntimeCpu().describe().max_opset
    assert newest is not None
    assert 20 <= newest <= onnx.defs.onnx_opset_version()
    onnxruntime.InferenceSession(_model(newest), providers=["CPUExecutionProvider"])
    if newest < onnx.defs.onnx_opset_version():
        with pytest.raises(Exception, match="opset"):
            onnxruntime.InferenceSession(_model(newest + 1), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, "n"])
def test_the_outputs_are_those_of_the_newest_inference(tmp_path: Path, batch: int | str) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, 2, 2]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Neg", ["a"], ["b"])], "negative", values[:1], values[1:])
    path = tmp_path / "negative.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    slots = [np.full((1, 3, 2, 2), value, np.float32) for value in (1, 2)]
    with OnnxRuntimeCpu().open(OpenRequest(str(path), (1, 3, 2, 2), 1, spin=False)) as engine:
        engine.bind(slots)
        for slot in (0, 1, 0):
            engine.infer(slot)
            (output,) = engine.outputs()
            assert np.array_equal(output, -slots[slot])
