"""From opset 18 to 17, for runtimes that end there (TensorRT 8.5 and 8.6).

torch's exporter begins at 18, and onnx's own converter drops the axes of reductions on this way down. What opset 18
added to the operators that backbones use is little: axes as an input of reductions, `num_outputs` of Split, three
attributes of Resize, and the axes input of Pad.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx.numpy_helper

from backbench.domain.errors import InvalidModel

_REDUCTIONS = (
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceSumSquare",
)  # fmt: skip
_RESIZE_DEFAULTS: dict[str, Any] = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}
_IR_VERSION = 8


def to_opset_17(model: onnx.ModelProto) -> None:
    """Rewrite a model of opset 18 in place. Raises InvalidModel where it uses what opset 17 cannot say."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _REDUCTIONS:
            _axes_to_attribute(node, constants)
        elif node.op_type == "Split":
            _drop(node, "num_outputs")
        elif node.op_type == "Resize":
            _resize(node)
        elif node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
            raise InvalidModel(
                f"opset 17 cannot express {node.name or node.op_type} (a Pad with axes); take --opset 18"
            )
        elif not _existed(node):
            raise InvalidModel(
                f"opset 17 cannot express {node.name or node.op_type} ({node.op_type} is newer); take --opset 18"
            )
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = 17
    model.ir_version = min(model.ir_version, _IR_VERSION)


def _existed(node: onnx.NodeProto) -> bool:
    return node.domain not in ("", "ai.onnx") or onnx.defs.has(node.op_type, max_inclusive_version=17)


def _axes_to_attribute(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    axes = _axes(node, constants)
    nothing_without_axes = any(each.name == "noop_with_empty_axes" and each.i for each in node.attribute)
    del node.input[1:]
    if not axes and nothing_without_axes:
        node.op_type = "Identity"
        del node.attribute[:]
        return
    _drop(node, "noop_with_empty_axes")
    if axes:
        node.attribute.append(onnx.helper.make_attribute("axes", axes))


def _axes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[int]:
    if len(node.input) < 2 or not node.input[1]:
        return []
    tensor = constants.get(node.input[1])
    if tensor is None:
        raise InvalidModel(
            f"opset 17 cannot express {node.name or node.op_type}: its axes are computed; take --opset 18"
        )
    return [int(axis) for axis in np.atleast_1d(onnx.numpy_helper.to_array(tensor))]


def _resize(node: onnx.NodeProto) -> None:
    for attribute in list(node.attribute):
        if attribute.name in _RESIZE_DEFAULTS:
            if onnx.helper.get_attribute_value(attribute) != _RESIZE_DEFAULTS[attribute.name]:
                raise InvalidModel(
                    f"opset 17 cannot express {node.name or node.op_type} (a Resize with {attribute.name});"
                    " take --opset 18, or a fixed size"
                )
            node.attribute.remove(attribute)
        elif attribute.name == "axes":
            raise InvalidModel(
                f"opset 17 cannot express {node.name or node.op_type} (a Resize with axes); take --opset 18"
            )


def _drop(node: onnx.NodeProto, name: str) -> None:
    for attribute in list(node.attribute):
        if attribute.name == name:
            node.attribute.remove(attribute)
