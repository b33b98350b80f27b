"""The numbers of a graph that depend on the size: setting them, keeping them as JSON, refusing places that are none."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.numpy_helper
import pytest

from backbench.models.size_expression import InputSize, parse_expression
from backbench.models.sized_numbers import (
    Place,
    SizedNumbers,
    SizeOutOfReach,
    apply_sizes,
    sizes_from_json,
    sizes_to_json,
)

TokenModel = Callable[[int, int, int], onnx.ModelProto]


def sized(places: dict[Place, str]) -> SizedNumbers:
    return SizedNumbers({place: parse_expression(text) for place, text in places.items()})


def test_a_graph_gets_the_numbers_that_it_has_at_the_other_size(
    token_model: TokenModel, token_sizes: SizedNumbers
) -> None:
    model, wanted = token_model(1, 32, 48), token_model(3, 80, 64)
    made = apply_sizes(model, token_sizes, InputSize(3, 80, 64))
    assert made.graph.node == wanted.graph.node
    assert [list(each.dims) for each in made.graph.initializer] == [
        list(each.dims) for each in wanted.graph.initializer
    ]
    shapes = [each.graph.initializer[1] for each in (made, wanted)]
    assert onnx.numpy_helper.to_array(shapes[0]).tolist() == onnx.numpy_helper.to_array(shapes[1]).tolist()


def test_the_graph_that_is_given_stays_as_it_is(token_model: TokenModel, token_sizes: SizedNumbers) -> None:
    model = token_model(1, 32, 48)
    apply_sizes(model, token_sizes, InputSize(3, 80, 64))
    assert model == token_model(1, 32, 48)
    assert apply_sizes(model, SizedNumbers(), InputSize(3, 80, 64)) == model


def test_it_is_known_which_tensors_change_their_shape_and_how_far_indices_point(token_sizes: SizedNumbers) -> None:
    assert token_sizes.tensors() == {"position", "table"}
    assert token_sizes.bounds(InputSize(1, 32, 80)) == {"table": 10}
    assert not SizedNumbers()


def test_places_are_kept_by_expression_and_read_back_as_they_were(token_sizes: SizedNumbers) -> None:
    written = sizes_to_json(token_sizes)
    assert written["h16*w16"] == [
        ["element", "shape", 2],
        ["dim", "position", 1],
        ["dim", "table", 0],
        ["bound", "table", 0],
    ]
    assert sizes_from_json(written) == token_sizes
    assert sizes_from_json({}) == SizedNumbers()


@pytest.mark.parametrize(
    "place",
    [[], ["element"], ["element", "shape"], ["element", "shape", "0"], ["element", "shape", 0, 0], ["element", 3, 0],
     ["element", "shape", 1.0], ["element", "shape", True], ["element", ["shape"], 0], ["colour", "shape", 0],
     ["attribute", 6, "kernel_shape"], ["attribute", "6", "kernel_shape", 0], ["attribute", "shape", 0],
     ["dim", 6, "kernel_shape", 0], ["x" * 100_000, "shape", 0]],
)  # fmt: skip
def test_what_is_no_place_is_refused_in_a_short_line(place: list[object]) -> None:
    with pytest.raises(ValueError, match="there is no such place") as error:
        sizes_from_json({"n": [place]})
    assert len(str(error.value)) < 120


def test_a_place_with_two_expressions_is_refused() -> None:
    place = ["element", "shape", 0]
    with pytest.raises(ValueError, match="two expressions"):
        sizes_from_json({"n": [place], "h16": [place]})
    with pytest.raises(ValueError, match="two expressions"):
        sizes_from_json({"n": [place, place]})


@pytest.mark.parametrize("text", ["1", "-5", "3*7+1"])
def test_a_number_that_does_not_depend_on_the_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not depend on the size"):
        sizes_from_json({text: [["element", "shape", 0]]})


@pytest.mark.parametrize(
    "place",
    [
        ("element", "none", 0), ("dim", "none", 0), ("element", "shape", 3), ("element", "shape", -1),
        ("element", "head.weight", 0), ("dim", "position", 3), ("dim", "position", -1),
        ("attribute", 10, "kernel_shape", 0), ("attribute", -4, "kernel_shape", 0), ("attribute", 6, "strides", 0),
        ("attribute", 6, "kernel_shape", 2), ("attribute", 6, "kernel_shape", -1), ("attribute", 4, "axis", 0),
    ],
)  # fmt: skip
def test_a_place_that_the_graph_does_not_have_is_refused(place: Place, token_model: TokenModel) -> None:
    with pytest.raises(ValueError, match=r"there are|there is|has no attribute") as error:
        apply_sizes(token_model(1, 32, 48), sized({place: "n"}), InputSize(1, 32, 48))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "text", "complaint"),
    [
        (("dim", "position", 1), "h64", "0 is no length"),
        (("dim", "position", 1), "h16+-9", "-7 is no length"),
        (("dim", "position", 1), "999999999*n*h16*w16", "6e.09 is too large"),
        (("element", "shape", 2), "999999999*999999999*999999999*n", "1e.27 is too large"),
        (("element", "shape", 2), "-999999999*n*h16*w16", "-6e.09 is too large"),
        (("attribute", 6, "kernel_shape", 0), "999999999*n*h16*w16", "6e.09 is too large"),
    ],
)
def test_a_number_out_of_range_is_refused_as_a_matter_of_the_size(
    place: Place, text: str, complaint: str, token_model: TokenModel
) -> None:
    with pytest.raises(SizeOutOfReach, match=complaint):
        apply_sizes(token_model(1, 32, 48), sized({place: text}), InputSize(1, 32, 48))


@pytest.mark.parametrize("text", ["h64", "h16+-9", "999999999*n*h16*w16"])
def test_a_range_of_indices_that_is_none_is_refused_as_a_matter_of_the_size(text: str) -> None:
    with pytest.raises(SizeOutOfReach, match=r"for .*'table'"):
        sized({("bound", "table", 0): text}).bounds(InputSize(1, 32, 48))
