"""Finding out how a graph depends on its input's size, by comparing exports of it at several sizes.

A static export holds numbers that are right for one size only: the shape of a transformer's tokens, the length of its
position embedding, the windows of a Swin. Between two sizes of one architecture nothing else may differ. Each such
number is matched with an expression in cells of the input, and an expression counts only if it is right at every size
that was exported; there are more of these than an expression has unknowns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from backbench.domain.errors import InvalidModel
from backbench.models.size_expression import InputSize, SizeExpression, parse_expression
from backbench.models.sized_numbers import Place, SizedNumbers

CELLS = (4, 8, 14, 16, 32, 28, 56, 112, 224)
"""Pixels: strides of feature maps, patches, and windows of seven cells at each stride."""
_SHAPES = ("h", "w", "hw", "hhww")
_TABLE_ELEMENTS = 256
_WHOLE = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


@dataclass(frozen=True, slots=True)
class Sample:
    """One export, and the size it was made for."""

    size: InputSize
    model: onnx.ModelProto


def sized_numbers(samples: Sequence[Sample]) -> SizedNumbers:
    """Every number that differs between the exports, and its expression; the first export is the one to be changed.

    Raises InvalidModel where two exports differ in more than numbers, or where no expression fits.
    """
    sizes = [sample.size for sample in samples]
    places: dict[Place, SizeExpression] = {}
    for place, values in differences([sample.model for sample in samples]):
        expression = fit(sizes, values)
        if expression is None:
            raise InvalidModel(
                f"{place} is {values} at {sizes}: no expression fits; give the recipe another class of sizes"
            )
        places[place] = expression
    return SizedNumbers(places)


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, changed in place so that exports of one structure have the same names in the same order.

    The exporter numbers what it makes, and keeps one of two lists of whole numbers that are equal; both depend on the
    size. So operators and what they give are named by their place, every operator gets short lists of its own, and
    constants are named for their first use. Parameters keep the names that they have in the torch module.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {value.name: value.name for value in [*model.graph.input, *model.graph.output]}
    kept: list[onnx.TensorProto] = []
    for place, node in enumerate(model.graph.node):
        for index, name in enumerate(node.input):
            tensor = tensors.get(name)
            if tensor is not None and (_is_short_list(tensor) or name not in names):
                copy = onnx.TensorProto()
                copy.CopyFrom(tensor)
                is_first = "." in name and name not in names
                copy.name = name if is_first else f"constant.{place}.{index}"
                kept.append(copy)
                node.input[index] = copy.name
                if is_first or not _is_short_list(tensor):
                    names[name] = copy.name
            elif name:
                node.input[index] = names[name]
        for index, name in enumerate(node.output):
            if name:
                names.setdefault(name, f"{node.op_type}.{place}.{index}")
                node.output[index] = names[name]
        node.name = f"{node.op_type}.{place}"
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _is_short_list(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in _WHOLE and math.prod(tensor.dims) < _TABLE_ELEMENTS


def fit(sizes: Sequence[InputSize], values: Sequence[int]) -> SizeExpression | None:
    """The simplest expression that gives `values` at `sizes`; None where there is none, or where nothing changes.

    >>> sizes = [InputSize(1, 224, 224), InputSize(2, 257, 299), InputSize(3, 350, 288)]
    >>> str(fit(sizes, [256, 756, 1500]))
    'n*h14*w14'
    """
    if len(set(values)) == 1:
        return None
    for variable, column in _variables(sizes):
        factor = _exact(values[0], column[0])
        if factor is not None and all(factor * have == want for have, want in zip(column, values, strict=True)):
            return parse_expression(variable if factor == 1 else f"{factor}*{variable}")
    for variable, column in _variables(sizes):
        if variable == "n":
            continue  # a batch is multiplied by something; a line through it only meets sides that grow along with it
        line = _line(column, values)
        if line is not None:
            return parse_expression(f"{line[0]}*{variable}+{line[1]}" if line[0] != 1 else f"{variable}+{line[1]}")
    return _two_variables(sizes, values)


def _variables(sizes: Sequence[InputSize]) -> Iterator[tuple[str, list[int]]]:
    yield from _valued(["n"], sizes)
    for batch, shape, rounding, cell in itertools.product(("", "n*"), _SHAPES, "hH", CELLS):
        sides = [side if rounding == "h" else side.upper() for side in shape]
        yield from _valued([batch + "*".join(f"{side}{cell}" for side in sides)], sizes)


def _valued(texts: list[str], sizes: Sequence[InputSize]) -> Iterator[tuple[str, list[int]]]:
    for text in texts:
        expression = parse_expression(text)
        yield text, [expression.value(size) for size in sizes]


def _exact(value: int, unit: int) -> int | None:
    return value // unit if unit and value % unit == 0 and value else None


def _line(column: Sequence[int], values: Sequence[int]) -> tuple[int, int] | None:
    """Factor and offset of a straight line through all points."""
    other = next((place for place, have in enumerate(column) if have != column[0]), None)
    if other is None:
        return None
    factor = _exact(values[other] - values[0], column[other] - column[0])
    if factor is None:
        return None
    offset = values[0] - factor * column[0]
    fits = all(factor * have + offset == want for have, want in zip(column, values, strict=True))
    return (factor, offset) if fits else None


def _two_variables(sizes: Sequence[InputSize], values: Sequence[int]) -> SizeExpression | None:
    """A difference of two lengths along one side, such as what a padding adds: `7*H28+-1*h4`."""
    for side in "hw":
        columns = [
            (text, column)
            for cell in CELLS
            for variable in (f"{side}{cell}", f"{side.upper()}{cell}")
            for text, column in _valued([variable], sizes)
        ]
        for (first, a), (second, b) in itertools.permutations(columns, 2):
            for factor in (7, 1):
                if all(factor * x - y == want for x, y, want in zip(a, b, values, strict=True)):
                    return parse_expression(f"{factor}*{first}+-1*{second}")
                if all(y - factor * x == want for x, y, want in zip(a, b, values, strict=True)):
                    return parse_expression(f"{second}+-{factor}*{first}")
    return None


def differences(models: Sequence[onnx.ModelProto]) -> Iterator[tuple[Place, list[int]]]:
    """Each number that is not the same in all exports, and what it is in each. Raises InvalidModel."""
    graphs = [model.graph for model in models]
    if len({len(graph.node) for graph in graphs}) > 1 or len({len(graph.initializer) for graph in graphs}) > 1:
        counts = ", ".join(str(len(graph.node)) for graph in graphs)
        raise InvalidModel(f"the exports have {counts} operators; give the recipe a class of sizes for each structure")
    for place, nodes in enumerate(zip(*(graph.node for graph in graphs), strict=True)):
        yield from _of_attributes(place, nodes)
    for tensors in zip(*(graph.initializer for graph in graphs), strict=True):
        yield from _of_tensors(tensors)


def _of_attributes(place: int, nodes: Sequence[onnx.NodeProto]) -> Iterator[tuple[Place, list[int]]]:
    first = nodes[0]
    for node in nodes[1:]:
        same = (node.op_type, list(node.input), list(node.output)) == (
            first.op_type, list(first.input), list(first.output),
        )  # fmt: skip
        if not same or len(node.attribute) != len(first.attribute):
            raise InvalidModel(f"operator {place} is {first.op_type} at one size and {node.op_type} at another")
    for attributes in zip(*(node.attribute for node in nodes), strict=True):
        name = attributes[0].name
        if len({attribute.SerializeToString(deterministic=True) for attribute in attributes}) == 1:
            continue
        if not attributes[0].ints or len({len(attribute.ints) for attribute in attributes}) > 1:
            raise InvalidModel(
                f"attribute {name} of {first.op_type} {place} depends on the size, and is no list of numbers"
            )
        for index, values in enumerate(zip(*(attribute.ints for attribute in attributes), strict=True)):
            if len(set(values)) > 1:
                yield ("attribute", place, name, index), list(values)


def _of_tensors(tensors: Sequence[onnx.TensorProto]) -> Iterator[tuple[Place, list[int]]]:
    first = tensors[0]
    name = first.name
    ranks = {(tensor.name, tensor.data_type, len(tensor.dims)) for tensor in tensors}
    if len(ranks) > 1:
        raise InvalidModel(f"tensor {name} has another name, type or rank at another size")
    resized = False
    for axis, lengths in enumerate(zip(*(tensor.dims for tensor in tensors), strict=True)):
        if len(set(lengths)) > 1:
            resized = True
            yield ("dim", name, axis), list(lengths)
    if first.data_type not in _WHOLE:
        _check_numbers(tensors)
        return
    arrays: list[Any] = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    if resized:
        bounds = [int(array.max()) + 1 for array in arrays]
        if min(array.size for array in arrays) < _TABLE_ELEMENTS and not all(map(_counts_up, arrays, bounds)):
            raise InvalidModel(f"tensor {name} of whole numbers changes its shape with the size: {arrays[0].tolist()}")
        if len(set(bounds)) > 1:
            yield ("bound", name, 0), bounds
        return
    for index, values in enumerate(zip(*(array.reshape(-1).tolist() for array in arrays), strict=True)):
        if len(set(values)) > 1:
            yield ("element", name, index), list(values)


def _counts_up(array: Any, bound: int) -> bool:
    """Whether a table is 0, 1, 2 and so on, beginning again at `bound`, so that nothing is lost if it is made anew."""
    return bool(np.array_equal(array.reshape(-1), np.arange(array.size) % bound))


def _check_numbers(tensors: Sequence[onnx.TensorProto]) -> None:
    """A few floating-point numbers are constants of the graph, not weights: they must not depend on the size."""
    if math.prod(tensors[0].dims) > 4 or tensors[0].data_type != onnx.TensorProto.FLOAT:
        return
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
    if tensors[0].name.startswith("constant.") and any(not np.array_equal(array, arrays[0]) for array in arrays[1:]):
        raise InvalidModel(f"the constant {tensors[0].name} depends on the size")
