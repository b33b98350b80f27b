"""Whole numbers in a graph that depend on the size it is made for, such as the shape of a vision transformer's tokens.

An expression is a sum of products, written `3*n*h14*w14+1`. `n` is the batch; `h14` and `w14` are how many whole cells
of 14 pixels fit into the height and the width, `H28` and `W28` how many cells of 28 pixels cover them.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_FACTOR = re.compile(r"-?\d{1,9}|n|[hwHW][1-9]\d{0,3}", re.ASCII)
_MOST_PARTS = 8
_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class InputSize:
    """The size that a graph is made for: images in a batch, and pixels."""

    batch: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class SizeExpression:
    """A sum of products of numbers and of size variables."""

    terms: tuple[tuple[str, ...], ...]

    def value(self, size: InputSize) -> int:
        """The number for one size.

        >>> parse_expression("n*h14*w14+1").value(InputSize(1, 224, 224))
        257
        """
        total = 0
        for term in self.terms:
            product = 1
            for factor in term:
                product *= _factor(factor, size)
            total += product
        return total

    def is_constant(self) -> bool:
        """Whether no size variable is in it."""
        return not any(factor[0] in "nhwHW" for term in self.terms for factor in term)

    def __str__(self) -> str:
        return "+".join("*".join(term) for term in self.terms)


def parse_expression(text: str) -> SizeExpression:
    """The expression in `text`; raises ValueError where it is none."""
    terms = tuple(tuple(term.split("*")) for term in text[: _MOST_CHARACTERS + 1].split("+"))
    if len(text) > _MOST_CHARACTERS or max(len(terms), *map(len, terms)) > _MOST_PARTS:
        raise ValueError(f"{text[:40]!r}... is longer than any expression is")
    for factor in itertools.chain.from_iterable(terms):
        if _FACTOR.fullmatch(factor) is None:
            raise ValueError(f"{factor[:40]!r} in {text[:80]!r} is no size variable")
    return SizeExpression(terms)


def _factor(factor: str, size: InputSize) -> int:
    if factor == "n":
        return size.batch
    kind, cell = factor[0], factor[1:]
    if kind not in "hwHW":
        return int(factor)
    pixels = size.height if kind in "hH" else size.width
    return pixels // int(cell) if kind in "hw" else -(-pixels // int(cell))
