"""A graph as the analyses see it: nodes in order, the sizes and types of their values, and small constants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx
import onnx.helper
import onnx.numpy_helper

from backbench.controller.analysis.graph.folding import concrete, with_shapes
from backbench.controller.analysis.graph.results import Shape
from backbench.domain.errors import InvalidArgument

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
_SMALL = 4096
_HALF_BYTES = {getattr(onnx.TensorProto, name) for name in ("INT4", "UINT4") if hasattr(onnx.TensorProto, name)}
_SHAPE_ONLY = {"Shape", "Size"}


@dataclass(frozen=True)
class Node:
    """One operator; an absent optional input is an empty text."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, index: int) -> str:
        """The name of an input, empty where the node has none there."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def ints(self, name: str, default: Iterable[int]) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return tuple(int(value) for value in self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """An attribute that is a text."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)


class Graph:
    """The main graph of a model whose sizes are concrete. Raises InvalidArgument if they are not."""

    def __init__(self, model: onnx.ModelProto) -> None:
        shaped, self._folded = with_shapes(model)
        graph = shaped.graph
        self.nodes = tuple(_node(index, node) for index, node in enumerate(graph.node))
        self.initialisers: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = tuple(value.name for value in graph.input if value.name not in self.initialisers)
        self.outputs = tuple(value.name for value in graph.output)
        self._shapes: dict[str, Shape | None] = {}
        self._types: dict[str, int] = {}
        for value in [*graph.value_info, *graph.input, *graph.output]:
            self._shapes[value.name] = concrete(value)
            self._types[value.name] = value.type.tensor_type.elem_type
        for name, tensor in [*self._folded.items(), *self.initialisers.items()]:
            self._shapes[name] = tuple(tensor.dims)
            self._types[name] = tensor.data_type
        for name in self.inputs:
            if self.shape(name) is None:
                raise InvalidArgument(f"the input '{name}' has no fixed size; fix batch, height and width first")

    def shape(self, name: str) -> Shape | None:
        """A value's shape; None where it is unknown."""
        return self._shapes.get(name)

    def dtype(self, name: str) -> int:
        """A value's ONNX type; 0 where it is unknown."""
        return self._types.get(name, 0)

    def bytes_of(self, name: str) -> int | None:
        """The memory that a value takes; None where its shape or type is unknown."""
        shape = self.shape(name)
        return None if shape is None else bytes_for(math.prod(shape), self.dtype(name))

    @cached_property
    def sources(self) -> Mapping[str, frozenset[str]]:
        """For every value that does not depend on the image: the initialisers that it is made from."""
        found = {name: frozenset((name,)) for name in self.initialisers}
        for node in self.nodes:
            given = [name for name in node.inputs if name]
            if node.op_type in _SHAPE_ONLY:
                made: frozenset[str] = frozenset()
            elif all(name in found for name in given):
                made = frozenset[str]().union(*(found[name] for name in given))
            else:
                continue
            found.update(dict.fromkeys(node.outputs, made))
        return found

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same for every image."""
        return name in self.sources

    def activations(self, node: Node) -> tuple[str, ...]:
        """The inputs of `node` that depend on the image, each once."""
        return tuple(dict.fromkeys(name for name in node.inputs if name and not self.is_constant(name)))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A small constant's numbers as integers; None if it is not one, or has no data."""
        tensor = self._small_tensors.get(name)
        if tensor is None or math.prod(tensor.dims) > _SMALL:
            return None
        try:
            return tuple(int(value) for value in onnx.numpy_helper.to_array(tensor).reshape(-1))
        except (ValueError, TypeError, OverflowError):
            return None

    def axes(self, node: Node, index: int = 1) -> tuple[int, ...] | None:
        """The axes that `node` gets as an attribute or as an input; None where it gets none that are known."""
        if "axes" in node.attributes:
            return node.ints("axes", ())
        return self.integers(node.input(index)) if node.input(index) else None

    @cached_property
    def _small_tensors(self) -> Mapping[str, onnx.TensorProto]:
        tensors = {**self._folded, **self.initialisers}
        for node in self.nodes:
            if node.op_type == "Constant" and "value" in node.attributes:
                tensors[node.outputs[0]] = node.attributes["value"]
            elif node.op_type == "Constant" and "value_ints" in node.attributes:
                values = node.ints("value_ints", ())
                tensors[node.outputs[0]] = onnx.helper.make_tensor(
                    node.outputs[0], onnx.TensorProto.INT64, [len(values)], values
                )
            elif node.op_type == "Identity" and node.input(0) in tensors:
                tensors[node.outputs[0]] = tensors[node.input(0)]
        return tensors


def bytes_for(count: int, dtype: int) -> int | None:
    """The memory that `count` numbers of an ONNX type take; None for texts and unknown types."""
    if dtype in _HALF_BYTES:
        return (count + 1) // 2
    try:
        return count * int(onnx.helper.tensor_dtype_to_np_dtype(dtype).itemsize)
    except KeyError:
        return None


def _node(index: int, node: onnx.NodeProto) -> Node:
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    domain = "" if node.domain == "ai.onnx" else node.domain
    name = node.name or f"{node.op_type}_{index}"
    return Node(name, node.op_type, domain, tuple(node.input), tuple(node.output), values)
