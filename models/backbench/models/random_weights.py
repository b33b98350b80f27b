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
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["weight", "offset", "scale", "integer", "index"]

_CHUNK = 1 << 20
_HALF_RANGE_BITS = 23
_HALF_RANGE = 1 << _HALF_RANGE_BITS
_SMALLEST_GAIN = 0.01
_LARGEST_OFFSET = 20
_USUAL_OFFSET = 1.0
_LARGEST_INT8 = 127
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class TensorRecipe:
    """What is left of a tensor's numbers.

    weight: uniform around 0, standard deviation gain / sqrt(fan_in)
    offset: uniform around 0, standard deviation gain
    scale:  uniform from gain / 2 to gain * 3 / 2; what a graph multiplies by or divides by
    integer: uniform whole numbers from -gain to gain, for bytes without a sign from 0 to twice that; the weights of a
        quantized operator
    index:  0, 1, 2 and so on, beginning again at gain; what a graph looks up in a table of gain rows
    """

    kind: Kind
    gain: float
    fan_in: int = 1


def recipe_for(values: NDArray[Any], kind: Kind, fan_in: int) -> TensorRecipe:
    """The recipe whose numbers are as large as `values`; constant zeros become small numbers that are not zero.

    An offset far larger than any activation is a mask, such as -100 where a window may not look. Random numbers of that
    size, added everywhere, would leave a softmax one number and make denormals of the others; it gets usual numbers.
    The gain keeps four digits, so that it does not hang on the order in which a library adds numbers up.
    """
    exact = values.astype(np.float64)
    if kind == "index":
        return TensorRecipe("index", float(exact.max()) + 1)
    if kind == "integer":
        square = float(np.mean(np.square(exact)))
        reach = _LARGEST_INT8 if values.dtype.kind == "u" else round((math.sqrt(1 + 12 * square) - 1) / 2)
        return TensorRecipe("integer", float(min(max(reach, 1), _LARGEST_INT8)))
    if kind == "scale" and (bool(np.all(exact > 0)) or bool(np.all(exact < 0))):
        return TensorRecipe("scale", _rounded(float(exact.mean())))
    spread = float(np.sqrt(np.mean(np.square(exact))))
    if kind == "weight":
        return TensorRecipe("weight", _rounded(max(spread * math.sqrt(fan_in), _SMALLEST_GAIN)), fan_in)
    return TensorRecipe("offset", _rounded(max(spread, _SMALLEST_GAIN)) if spread < _LARGEST_OFFSET else _USUAL_OFFSET)


def random_chunks(recipe: TensorRecipe, name: str, seed: int, count: int, dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The `count` numbers of the tensor called `name` as little-endian bytes, a few megabytes at a time."""
    if recipe.kind == "index":
        yield from _index_chunks(int(recipe.gain), count, dtype)
        return
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
        if recipe.kind == "integer":
            yield _whole_numbers(odd, int(recipe.gain), dtype).astype(stored).tobytes()
            continue
        numbers = odd.astype(np.float32)
        numbers *= step
        if centre:
            numbers += np.float32(centre)
        yield numbers.astype(stored, copy=False).tobytes()


def _whole_numbers(odd: NDArray[np.int32], gain: int, dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """As many of each from -gain to gain: rounded, so that they have no mean that a layer would add up."""
    numbers = (odd.astype(np.int64) * (2 * gain + 1) + _HALF_RANGE) >> (_HALF_RANGE_BITS + 1)
    return numbers + gain if dtype.kind == "u" else numbers


def _index_chunks(bound: int, count: int, dtype: np.dtype[Any]) -> Iterator[bytes]:
    for start in range(0, count, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, count), dtype=np.int64) % bound
        yield numbers.astype(dtype.newbyteorder("<")).tobytes()


def _centre_and_deviation(recipe: TensorRecipe) -> tuple[float, float]:
    if recipe.kind == "scale":
        return recipe.gain, abs(recipe.gain) / (2 * math.sqrt(3))
    return 0.0, recipe.gain / math.sqrt(recipe.fan_in)


def _rounded(gain: float) -> float:
    return float(f"{gain:.{_DIGITS}g}")
