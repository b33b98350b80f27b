"""Random numbers in place of weights: the same everywhere, as large as they should be, no zeros where none belong."""

from __future__ import annotations

import hashlib
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from backbench.models.random_weights import Kind, TensorRecipe, random_chunks, recipe_for

COUNT = (1 << 20) + 5
"""More than are made at a time."""
RECIPES: dict[Kind, tuple[TensorRecipe, type[np.generic], str]] = {
    "weight": (TensorRecipe("weight", 1.414, 27), np.float32, "d151f205e6058c54"),
    "offset": (TensorRecipe("offset", 1.414), np.float32, "f1c774717a5ea8c9"),
    "scale": (TensorRecipe("scale", 1.414), np.float32, "8db6a1ed30ff873c"),
    "integer": (TensorRecipe("integer", 73), np.int8, "bf868fc45ecdd6ad"),
    "index": (TensorRecipe("index", 1000), np.int64, "0a5595818992c65e"),
}


def numbers(recipe: TensorRecipe, count: int, dtype: type[np.generic], name: str = "conv.weight") -> NDArray[Any]:
    data = b"".join(random_chunks(recipe, name, 7, count, np.dtype(dtype)))
    return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<"))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_numbers_are_the_same_on_every_platform_and_with_every_numpy(kind: Kind) -> None:
    recipe, dtype, digest = RECIPES[kind]
    data = b"".join(random_chunks(recipe, "conv.weight", 7, COUNT, np.dtype(dtype)))
    assert len(data) == COUNT * np.dtype(dtype).itemsize
    assert hashlib.sha256(data).hexdigest()[:16] == digest


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_numbers_have_the_spread_of_their_recipe_and_none_is_zero(dtype: type[np.generic]) -> None:
    weights = numbers(TensorRecipe("weight", 2.0, 100), 50_000, dtype).astype(np.float64)
    assert weights.std() == pytest.approx(0.2, rel=0.02)
    assert abs(weights.mean()) < 0.005
    scales = numbers(TensorRecipe("scale", -4.0), 50_000, dtype).astype(np.float64)
    assert (scales.min() >= -6, scales.max() <= -2) == (True, True)
    assert (weights != 0).all()


@pytest.mark.parametrize("gain", [1, 2, 37, 127])
def test_whole_numbers_reach_their_gain_on_both_sides_evenly(gain: int) -> None:
    made = numbers(TensorRecipe("integer", gain), COUNT, np.int8).astype(np.int64)
    assert (made.min(), made.max()) == (-gain, gain)
    assert abs(made.mean()) < 0.005 * gain
    share = np.bincount(made + gain) / COUNT * (2 * gain + 1)
    assert 0.9 < share.min() <= share.max() < 1.1


def test_bytes_without_a_sign_lie_around_their_usual_zero_point() -> None:
    recipe = recipe_for(np.full(500, 128, np.uint8), "integer", 1)
    made = numbers(recipe, COUNT, np.uint8)
    assert (made.min(), made.max()) == (0, 254)
    assert made.mean() == pytest.approx(127, abs=0.5)


@pytest.mark.parametrize(("value", "gain"), [(0, 1), (1, 1), (20, 34), (127, 127), (-128, 127)])
def test_a_recipe_of_whole_numbers_never_exceeds_a_byte(value: int, gain: int) -> None:
    assert recipe_for(np.full(300, value, np.int8), "integer", 1) == TensorRecipe("integer", gain)


def test_whole_numbers_made_anew_spread_as_the_old_ones_did() -> None:
    old = np.random.default_rng(0).normal(0, 25, 50_000).round().clip(-127, 127).astype(np.int8)
    made = numbers(recipe_for(old, "integer", 1), 50_000, np.int8)
    assert made.astype(float).std() == pytest.approx(old.astype(float).std(), rel=0.02)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_indices_count_up_and_begin_again_across_chunks(dtype: type[np.generic]) -> None:
    made = numbers(TensorRecipe("index", 1000), COUNT, dtype)
    assert np.array_equal(made, np.arange(COUNT) % 1000)


def test_a_recipe_of_indices_has_as_many_rows_as_the_table_it_was_made_of() -> None:
    table = np.array([[3, 0], [1, 168]], np.int64)
    assert recipe_for(table, "index", 1) == TensorRecipe("index", 169)


def test_another_name_or_seed_gives_other_numbers() -> None:
    recipe = TensorRecipe("offset", 1.0)
    first = numbers(recipe, 1000, np.float32)
    assert not np.isin(first, numbers(recipe, 1000, np.float32, "other")).mean() > 0.01
    assert b"".join(random_chunks(recipe, "conv.weight", 8, 1000, np.dtype(np.float32))) != first.tobytes()


def test_a_mask_comes_back_as_small_as_any_offset() -> None:
    mask = np.where(np.eye(49, dtype=bool), 0.0, -100.0).astype(np.float32)
    made = np.abs(numbers(recipe_for(mask, "offset", 1), 5000, np.float32))
    assert made.max() < 2


def test_scales_of_both_signs_are_taken_for_offsets_so_that_none_comes_near_a_wrong_one() -> None:
    assert recipe_for(np.linspace(-1, 1, 500), "scale", 1).kind == "offset"
    assert recipe_for(np.full(500, -0.5), "scale", 1) == TensorRecipe("scale", -0.5)


def test_zeros_come_back_small_and_none_of_them_is_zero() -> None:
    for kind in ("weight", "offset", "scale"):
        made = np.abs(numbers(recipe_for(np.zeros(500), kind, 1), 5000, np.float32))
        assert made.max() < 0.02
        assert made.min() > np.finfo(np.float32).tiny
