"""Which operators of a converted model compute in the lower precision, in its file and as ONNX Runtime executes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.shape_inference

MAC_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention")
"""The operators that hold a backbone's multiply-adds."""

_INTEGER = (
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "ConvInteger",
    "QAttention",
)
_FLOAT = (*MAC_OPERATORS, "FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "MultiHeadAttention")
_CARRIERS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather")
"""Operators that hand numbers on as they are."""


@dataclass(frozen=True, slots=True)
class Executed:
    """The operators of the graph that ONNX Runtime made of the model, by type.

    `integer` and `float` are those with multiply-adds, `other` everything else: activations in float, and conversions.
    """

    integer: Mapping[str, int]
    float: Mapping[str, int]
    other: Mapping[str, int]

    def to_document(self) -> dict[str, Any]:
        """For JSON."""
        return {"integer": dict(self.integer), "float": dict(self.float), "other": dict(self.other)}


@dataclass(frozen=True, slots=True)
class Coverage:
    """The operators with multiply-adds of a converted model's file, and those of them that stayed in float."""

    mac_operator_count: int
    float_operators: Mapping[str, int]
    float_operator_names: tuple[str, ...]

    @property
    def converted_count(self) -> int:
        """How many compute in the lower precision."""
        return self.mac_operator_count - sum(self.float_operators.values())


def int8_coverage(model: onnx.ModelProto) -> Coverage:
    """An operator counts as converted where both of its factors come from a DequantizeLinear."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def quantized(name: str) -> bool:
        node = makers.get(name)
        while node is not None and node.op_type in _CARRIERS:
            node = makers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    return _coverage(model, lambda node: all(map(quantized, node.input[:2])))


def fp16_coverage(model: onnx.ModelProto) -> Coverage:
    """An operator counts as converted where its result has sixteen bits."""
    inferred = onnx.shape_inference.infer_shapes(model)
    half = {
        value.name
        for value in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    return _coverage(model, lambda node: node.output[0] in half)


def executed_operators(optimised: onnx.ModelProto) -> Executed:
    """The operators of a graph that ONNX Runtime wrote, by what they compute with."""
    counts = Counter(node.op_type for node in optimised.graph.node)
    return Executed(
        integer=_sorted({name: count for name, count in counts.items() if name in _INTEGER}),
        float=_sorted({name: count for name, count in counts.items() if name in _FLOAT}),
        other=_sorted({name: count for name, count in counts.items() if name not in (*_INTEGER, *_FLOAT)}),
    )


def _coverage(model: onnx.ModelProto, converted: Any) -> Coverage:
    operators = [node for node in model.graph.node if node.op_type in MAC_OPERATORS]
    left = [node for node in operators if not converted(node)]
    return Coverage(
        len(operators),
        _sorted(Counter(node.op_type for node in left)),
        tuple(node.name or node.output[0] for node in left),
    )


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
