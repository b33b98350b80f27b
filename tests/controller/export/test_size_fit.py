"""How a graph depends on its size: expressions for made-up numbers, places in small graphs, names that are alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper as oh
import onnx.numpy_helper as onh
import onnx.reference
import pytest

from backbench.controller.export.size_fit import Sample, canonical, differences, fit, sized_numbers
from backbench.domain.errors import InvalidModel
from backbench.models.size_expression import InputSize
from backbench.models.sized_numbers import apply_sizes

SIZES = [InputSize(1, 224, 224), InputSize(3, 248, 337), InputSize(2, 334, 261), InputSize(1, 338, 332)]
OTHER = InputSize(5, 449, 163)

Number = Callable[[int, int, int], int]


def covered(pixels: int, cell: int) -> int:
    return -(-pixels // cell)


def values(number: Number, sizes: Sequence[InputSize] = SIZES) -> list[int]:
    return [number(size.batch, size.height, size.width) for size in sizes]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (lambda n, _h, _w: n, "n"),
        (lambda n, _h, _w: 12 * n, "12*n"),
        (lambda _n, h, _w: h // 14, "h14"),
        (lambda _n, _h, w: w // 16, "w16"),
        (lambda _n, h, _w: covered(h, 32), "H32"),
        (lambda _n, h, w: (h // 16) * (w // 16), "h16*w16"),
        (lambda n, h, w: n * (h // 16) * (w // 16), "n*h16*w16"),
        (lambda n, h, w: 64 * n * covered(h, 28) * covered(w, 28), "64*n*H28*W28"),
        (lambda _n, h, w: (h // 32) ** 2 * (w // 32) ** 2, "h32*h32*w32*w32"),
        (lambda _n, h, w: (h // 16) * (w // 16) + 1, "h16*w16+1"),
        (lambda _n, h, _w: 2 * (h // 16) - 1, "2*h16+-1"),
        (lambda _n, h, _w: 7 * covered(h, 28), "7*H28"),
        (lambda _n, h, _w: 7 * covered(h, 28) - h // 4, "7*H28+-1*h4"),
        (lambda _n, _h, w: covered(w, 4) - 7 * (w // 28), "W4+-7*w28"),
    ],
)
def test_the_simplest_expression_is_found_and_right_at_other_sizes(number: Number, text: str) -> None:
    found = fit(SIZES, values(number))
    assert str(found) == text
    assert found is not None
    assert found.value(OTHER) == number(OTHER.batch, OTHER.height, OTHER.width)


@pytest.mark.parametrize(
    "number",
    [
        lambda n, _h, _w: n * n,
        lambda _n, h, w: h * w + h // 7,
        lambda _n, h, _w: h % 5,
        lambda n, h, _w: n + h // 16,
        lambda _n, h, w: (h // 16) + (w // 16),
    ],
)
def test_what_no_expression_gives_is_not_forced_into_one(number: Number) -> None:
    assert fit(SIZES, values(number)) is None


def test_a_constant_depends_on_nothing() -> None:
    assert fit(SIZES, [5, 5, 5, 5]) is None
    assert fit(SIZES, [0, 0, 0, 0]) is None


def test_what_fits_at_all_sizes_but_one_does_not_fit() -> None:
    right = values(lambda n, h, w: n * (h // 14) * (w // 14))
    assert fit(SIZES, right) is not None
    assert fit(SIZES, [*right[:-1], right[-1] + 1]) is None


def tokens(
    batch: int, height: int, width: int, *, name: str = "shape", more: bool = False, table: str = "counts", **how: Any
) -> onnx.ModelProto:
    """What a transformer's export looks like: its numbers in a shape, an embedding, a table and a kernel."""
    rows, columns = height // 16, width // 16
    count = rows * columns
    indices = {
        "counts": np.arange(count, dtype=np.int64),
        "turned": np.arange(count, dtype=np.int64)[::-1].copy(),
        "mapped": np.zeros(count, np.int64),
    }[table]
    tensors = {
        name: np.array([batch, 8, count], np.int64),
        "position": np.full((1, count, 8), height, np.float32),
        "table": indices,
        "constant.scale": np.array([how.get("scale", 0.5)], np.float32),
    }
    nodes = [
        oh.make_node("Conv", ["image", "w"], ["a"], strides=[16, 16]),
        oh.make_node("Reshape", ["a", name], ["b"]),
        oh.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
        oh.make_node("Add", ["c", "position"], ["d"]),
        oh.make_node("Gather", ["d", "table"], ["e"], axis=1),
        oh.make_node(how.get("operator", "AveragePool"), ["a"], ["g"], kernel_shape=[rows, columns]),
        oh.make_node("Concat", ["e", "e"], ["f"], axis=how.get("axis", 1)),
        *([oh.make_node("Relu", ["f"], ["h"])] if more else []),
    ]
    graph = oh.make_graph(
        nodes,
        "tokens",
        [oh.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 3, height, width])],
        [oh.make_tensor_value_info("f", onnx.TensorProto.FLOAT, None)],
        [onh.from_array(np.ones((8, 3, 16, 16), np.float32), "w")]
        + [onh.from_array(value, key) for key, value in tensors.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)])


def samples(**changed: Any) -> list[Sample]:
    """The graph at four sizes; in the last one, something else is different, too."""
    models = [tokens(size.batch, size.height, size.width) for size in SIZES[:-1]]
    last = SIZES[-1]
    models.append(tokens(last.batch, last.height, last.width, **changed))
    return [Sample(size, model) for size, model in zip(SIZES, models, strict=True)]


def test_every_number_of_a_graph_gets_its_expression() -> None:
    found = sized_numbers(samples())
    assert {place: str(expression) for place, expression in found.places.items()} == {
        ("attribute", 5, "kernel_shape", 0): "h16",
        ("attribute", 5, "kernel_shape", 1): "w16",
        ("element", "shape", 0): "n",
        ("element", "shape", 2): "h16*w16",
        ("dim", "position", 1): "h16*w16",
        ("dim", "table", 0): "h16*w16",
        ("bound", "table", 0): "h16*w16",
    }
    again = apply_sizes(samples()[0].model, found, OTHER)
    wanted = tokens(OTHER.batch, OTHER.height, OTHER.width)
    assert again.graph.node == wanted.graph.node
    shapes = {tensor.name: list(tensor.dims) for tensor in again.graph.initializer}
    assert shapes == {tensor.name: list(tensor.dims) for tensor in wanted.graph.initializer}


def test_equal_exports_have_no_sized_numbers() -> None:
    model = tokens(1, 224, 224)
    assert list(differences([model, model, model])) == []
    assert not sized_numbers([Sample(size, model) for size in SIZES])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"more": True}, "the exports have 7, 7, 7, 8 operators; give the recipe a class of sizes for each structure"),
        ({"operator": "MaxPool"}, "operator 5 is AveragePool at one size and MaxPool at another"),
        ({"axis": 2}, "attribute axis of Concat 6 depends on the size, and is no list of numbers"),
        ({"name": "form"}, "operator 1 is Reshape at one size and Reshape at another"),
        ({"table": "turned"}, "tensor table of whole numbers changes its shape with the size"),
        ({"scale": 0.25}, "the constant constant.scale depends on the size"),
    ],
)
def test_exports_that_differ_in_more_than_numbers_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidModel) as caught:
        sized_numbers(small_tables() if changed.get("table") else samples(**changed))
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def small_tables() -> list[Sample]:
    sizes = [InputSize(1, 64, 64), InputSize(2, 96, 80), InputSize(3, 128, 96)]
    return [Sample(size, tokens(size.batch, size.height, size.width, table="turned")) for size in sizes]


def test_a_number_that_no_expression_gives_is_refused_with_its_place() -> None:
    odd = samples()
    shape = next(tensor for tensor in odd[2].model.graph.initializer if tensor.name == "shape")
    shape.CopyFrom(onh.from_array(np.array([2, 7, 20 * 16], np.int64), "shape"))
    with pytest.raises(InvalidModel, match=r"\('element', 'shape', 1\) is \[8, 8, 7, 8\] at .*no expression fits"):
        sized_numbers(odd)


def test_weights_may_differ_but_not_in_number() -> None:
    """Two exports have other random weights; a tensor that comes or goes is another structure."""
    models = [tokens(1, 224, 224), tokens(1, 224, 224)]
    weights = next(tensor for tensor in models[1].graph.initializer if tensor.name == "w")
    weights.CopyFrom(onh.from_array(np.zeros((8, 3, 16, 16), np.float32), "w"))
    assert list(differences(models)) == []
    del models[1].graph.initializer[0]
    with pytest.raises(InvalidModel, match="operators; give the recipe a class of sizes"):
        list(differences(models))
    models[1].graph.initializer.insert(0, onh.from_array(np.zeros((8, 3, 16), np.float32), "w"))
    with pytest.raises(InvalidModel, match="tensor w has another name, type or rank at another size"):
        list(differences(models))


def numbered(first: int, *, shared: bool) -> onnx.ModelProto:
    """One structure as an exporter names it: counting from somewhere, with one list or two for the same numbers."""
    one, two = f"val_{first}", f"val_{first if shared else first + 1}"
    nodes = [
        oh.make_node("Reshape", ["image", one], ["t1"], f"node_{first}"),
        oh.make_node("Mul", ["t1", "block.gain"], [f"mul_{first}"], f"node_{first + 1}"),
        oh.make_node("Reshape", [f"mul_{first}", two], ["t2"], f"node_{first + 2}"),
        oh.make_node("Expand", ["block.gain", "block.shape"], ["t3"]),
        oh.make_node("Expand", ["block.gain", "block.shape"], ["t4"]),
        oh.make_node("Sum", ["t2", "t3", "t4"], ["y"], f"node_{first + 3}"),
    ]
    lists = {name: np.array([1, 12], np.int64) for name in {one: 0, two: 0}} | {"block.shape": np.array([1, 12])}
    graph = oh.make_graph(
        nodes,
        "numbered",
        [oh.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 2, 2])],
        [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 12])],
        [onh.from_array(np.full(12, 0.5, np.float32), "block.gain")]
        + [onh.from_array(value.astype(np.int64), name) for name, value in lists.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)])


def test_exports_of_one_structure_get_the_same_names() -> None:
    one, other = canonical(numbered(7, shared=True)), canonical(numbered(90, shared=False))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
    assert [node.name for node in one.graph.node][:3] == ["Reshape.0", "Mul.1", "Reshape.2"]
    assert [node.output[0] for node in one.graph.node][1:] == [
        "Mul.1.0",
        "Reshape.2.0",
        "Expand.3.0",
        "Expand.4.0",
        "y",
    ]
    assert list(differences([one, other])) == []


def test_names_are_unique_parameters_keep_theirs_and_the_numbers_stay() -> None:
    made, image = canonical(numbered(7, shared=True)), np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    names = [tensor.name for tensor in made.graph.initializer]
    assert names == ["constant.0.1", "block.gain", "constant.2.1", "block.shape", "constant.4.1"]
    onnx.checker.check_model(made)
    (before,) = onnx.reference.ReferenceEvaluator(numbered(7, shared=True)).run(None, {"image": image})
    (after,) = onnx.reference.ReferenceEvaluator(made).run(None, {"image": image})
    assert np.array_equal(before, after)
    again = onnx.ModelProto()
    again.CopyFrom(made)
    assert canonical(again) == made
