"""Random numbers in place of a tensor's weights: the same bytes for the same name and seed on every platform.

Philox's raw 64-bit output is fixed by its algorithm, and numpy promises to keep bit generators' streams; the streams of
its distributions (`normal`, `random`) it does not. So the raw bits are used directly: each 32-bit half, low one first,
gives an odd whole number between -2^23 and 2^23, which float32 holds exactly and which is never zero. One
multiplication by the step (and for a scale one addition) follows; IEEE arithmetic rounds these the same everywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["weight", "offset", "scale"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CHUNK = 1 << 20
_HALF_RANGE = 1 << 23
_SMALLEST_GAIN = 0.01
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class TensorRecipe:
    """What is left of a tensor's numbers.

    weight: uniform around 0, standard deviation gain / sqrt(fan_in)
    offset: uniform around 0, standard deviation gain
    scale:  uniform from gain / 2 to gain * 3 / 2; what a graph multiplies by or divides by
    """

    kind: Kind
    gain: float
    fan_in: int = 1


def recipe_for(values: NDArray[Any], kind: Kind, fan_in: int) -> TensorRecipe:
    """The recipe whose numbers are as large as `values`; constant zeros become small numbers that are not zero.

    The gain keeps four digits, so that it does not hang on the order in which a library adds numbers up.
    """
    exact = values.astype(np.float64)
    if kind == "scale" and (bool(np.all(exact > 0)) or bool(np.all(exact < 0))):
        return TensorRecipe("scale", _rounded(float(exact.mean())))
    spread = float(np.sqrt(np.mean(np.square(exact))))
    if kind == "weight":
        return TensorRecipe("weight", _rounded(max(spread * math.sqrt(fan_in), _SMALLEST_GAIN)), fan_in)
    return TensorRecipe("offset", _rounded(max(spread, _SMALLEST_GAIN)))


def random_chunks(recipe: TensorRecipe, name: str, seed: int, count: int, dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The `count` numbers of the tensor called `name` as little-endian bytes, a few megabytes at a time."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    centre, deviation = _centre_and_deviation(recipe)
    step = np.float32(deviation * math.sqrt(3) / _HALF_RANGE)
    stored = dtype.newbyteorder("<")
    for start in range(0, count, _CHUNK):
        length = min(_CHUNK, count - start)
        halves = bits.random_raw((length + 1) // 2).astype("<u8", copy=False).view("<u4")[:length]
        odd = (halves >> np.uint32(9)).astype(np.int32)
        odd *= 2
        odd -= _HALF_RANGE - 1
        numbers = odd.astype(np.float32)
        numbers *= step
        if centre:
            numbers += np.float32(centre)
        yield numbers.astype(stored, copy=False).tobytes()


def _centre_and_deviation(recipe: TensorRecipe) -> tuple[float, float]:
    if recipe.kind == "scale":
        return recipe.gain, abs(recipe.gain) / (2 * math.sqrt(3))
    return 0.0, recipe.gain / math.sqrt(recipe.fan_in)


def _rounded(gain: float) -> float:
    return float(f"{gain:.{_DIGITS}g}")
