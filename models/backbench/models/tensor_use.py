"""What a graph does with its initialisers: which numbers are weights, which scale, which belong to a quantizer."""

from __future__ import annotations

import math

import onnx

from backbench.models.random_weights import Kind

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_QUANTIZED_WEIGHTS = (
    ("DequantizeLinear", 0),
    ("QLinearConv", 3),
    ("QLinearMatMul", 3),
    ("ConvInteger", 1),
    ("MatMulInteger", 1),
)
_KINDS_BY_INPUT: dict[tuple[str, int], Kind] = {
    ("Conv", 1): "weight",
    ("ConvTranspose", 1): "weight",
    ("Gemm", 0): "weight",
    ("Gemm", 1): "weight",
    ("MatMul", 0): "weight",
    ("MatMul", 1): "weight",
    ("BatchNormalization", 1): "scale",
    ("BatchNormalization", 4): "scale",
    ("LayerNormalization", 1): "scale",
    ("GroupNormalization", 1): "scale",
    ("InstanceNormalization", 1): "scale",
    ("Mul", 0): "scale",
    ("Mul", 1): "scale",
    ("Div", 1): "scale",
}

Use = tuple[onnx.NodeProto, int]
"""A node, and which of its inputs."""


class TensorUses:
    """The first use of every value in a graph, looked through a quantizer where there is one."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._first: dict[str, Use] = {}
        self._settings: set[str] = set()
        for node in graph.node:
            for index, name in enumerate(node.input):
                self._first.setdefault(name, (node, index))
                if (node.op_type in QUANTIZERS and index > 0) or node.op_type.startswith("QLinear"):
                    self._settings.add(name)

    def kind(self, name: str) -> Kind:
        """What the numbers of a floating-point tensor are."""
        use = self._use(name)
        return _KINDS_BY_INPUT.get((use[0].op_type, use[1]), "offset") if use else "offset"

    def is_quantized_weight(self, name: str) -> bool:
        """Whether a tensor of bytes is multiplied with the image's, as it is or turned into floating-point numbers."""
        use = self._first.get(name)
        return use is not None and (use[0].op_type, use[1]) in _QUANTIZED_WEIGHTS

    def is_quantizer_setting(self, name: str) -> bool:
        """Whether a floating-point tensor is a scale of a quantizer or of a quantized operator, whatever else it is."""
        return name in self._settings

    def fan_in(self, tensor: onnx.TensorProto) -> int:
        """How many products are added up for one number of the result; 1 for what is no weight."""
        use = self._use(tensor.name)
        if use is None:
            return 1
        node, index = use
        dims: tuple[int, ...] = tuple(tensor.dims)
        attributes: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Conv":
            return math.prod(dims[1:])
        if node.op_type == "ConvTranspose":
            return math.prod((dims[0], *dims[2:])) // max(attributes.get("group", 1), 1)
        if node.op_type == "Gemm":
            transposed = bool(attributes.get("transA" if index == 0 else "transB", 0))
            return dims[1] if (index == 1) == transposed else dims[0]
        return dims[-1] if index == 0 or len(dims) == 1 else dims[-2]

    def _use(self, name: str) -> Use | None:
        use = self._first.get(name)
        for _ in range(4):
            if use is None or use[0].op_type not in QUANTIZERS or use[1] != 0:
                return use
            use = self._first.get(use[0].output[0])
        return use
