"""Where in a graph the numbers are that depend on the input's size, and setting them for one size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from backbench.models.size_expression import InputSize, SizeExpression, parse_expression

Place = tuple[str, str, int] | tuple[str, int, str, int]
"""("element", tensor, index), ("dim", tensor, axis), ("bound", tensor, 0) or ("attribute", node, name, index)."""

_KINDS = {"element": 3, "dim": 3, "bound": 3, "attribute": 4}
"""Each kind of place, and how many parts it has."""
_LARGEST_NUMBER = 1 << 31
_WHOLE_NUMBERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


class SizeOutOfReach(ValueError):
    """A number of the graph is out of range at one size; at another it may not be."""


@dataclass(frozen=True)
class SizedNumbers:
    """Each place of a graph that depends on the size, and its expression."""

    places: Mapping[Place, SizeExpression] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.places)

    def tensors(self) -> frozenset[str]:
        """The tensors whose shape depends on the size."""
        return frozenset(str(place[1]) for place in self.places if place[0] == "dim")

    def bounds(self, size: InputSize) -> dict[str, int]:
        """For tables of indices whose range depends on the size: how many rows they point into."""
        return {
            str(place[1]): _length(expression.value(size), place)
            for place, expression in self.places.items()
            if place[0] == "bound"
        }


def apply_sizes(model: onnx.ModelProto, sizes: SizedNumbers, size: InputSize) -> onnx.ModelProto:
    """A copy of `model` with every sized number set.

    Raises SizeOutOfReach for a size at which one is out of range, another ValueError where a place does not exist.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not sizes:
        return copy
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    elements: dict[str, np.ndarray[Any, Any]] = {}
    for place, expression in sizes.places.items():
        value, name = expression.value(size), str(place[1])
        if place[0] == "attribute":
            numbers = _attribute(copy.graph, place)
            numbers[_index(place[-1], len(numbers), place)] = _number(value, place)
        elif name not in tensors:
            raise ValueError(f"there is no tensor for {_text(place)}")
        elif place[0] == "element":
            if name not in elements:
                elements[name] = _elements(tensors[name], place)
            elements[name].reshape(-1)[_index(place[-1], elements[name].size, place)] = _number(value, place)
        elif place[0] == "dim":
            tensors[name].dims[_index(place[-1], len(tensors[name].dims), place)] = _length(value, place)
    for name, values in elements.items():
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    return copy


def sizes_to_json(sizes: SizedNumbers) -> dict[str, list[list[str | int]]]:
    """Places by their expression."""
    grouped: dict[str, list[list[str | int]]] = {}
    for place, expression in sizes.places.items():
        grouped.setdefault(str(expression), []).append(list(place))
    return grouped


def sizes_from_json(values: Mapping[str, Any]) -> SizedNumbers:
    """The inverse of `sizes_to_json`; raises ValueError for what is none."""
    places: dict[Place, SizeExpression] = {}
    for text, listed in values.items():
        expression = parse_expression(text)
        if expression.is_constant():
            raise ValueError(f"{text!r} does not depend on the size")
        for parts in listed:
            place = _place(parts)
            if place in places:
                raise ValueError(f"{_text(place)} has two expressions")
            places[place] = expression
    return SizedNumbers(places)


def _place(parts: Any) -> Place:
    kinds = [type(part) for part in parts]
    if kinds not in ([str, str, int], [str, int, str, int]) or _KINDS.get(parts[0]) != len(parts):
        raise ValueError(f"there is no such place: {_text(parts)}")
    place: Place = tuple(parts)
    return place


def _attribute(graph: onnx.GraphProto, place: Place) -> Any:
    """The list of numbers that a place is in."""
    node = graph.node[_index(place[1], len(graph.node), place)]
    found = [attribute.ints for attribute in node.attribute if attribute.name == place[2]]
    if not found:
        raise ValueError(f"{node.op_type} has no attribute for {_text(place)}")
    return found[0]


def _elements(tensor: onnx.TensorProto, place: Place) -> np.ndarray[Any, Any]:
    if tensor.data_type not in _WHOLE_NUMBERS:
        raise ValueError(f"there are no whole numbers for {_text(place)}")
    numbers: np.ndarray[Any, Any] = onnx.numpy_helper.to_array(tensor).copy()
    return numbers


def _index(index: str | int, count: int, place: Place) -> int:
    """`index`, if there are more than that; counting from the end is no way to name a place."""
    if not 0 <= int(index) < count:
        raise ValueError(f"there are {count} for {_text(place)}")
    return int(index)


def _length(value: int, place: Place) -> int:
    if value < 1:
        raise SizeOutOfReach(f"{value} is no length for {_text(place)}")
    return _number(value, place)


def _number(value: int, place: Place) -> int:
    if abs(value) >= _LARGEST_NUMBER:
        raise SizeOutOfReach(f"{value:.3g} is too large for {_text(place)}")
    return value


def _text(place: Any) -> str:
    return repr(place)[:80]
