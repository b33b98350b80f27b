"""What the ONNX Runtime backend says of itself."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

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
