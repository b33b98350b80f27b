"""One backbone's recipe: what it is, which sizes it takes, how an image becomes its input."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from backbench.domain.errors import InvalidArgument, ShapeMismatch
from backbench.domain.preprocess import Interpolation, Preprocess

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class Sizes:
    """Which input sizes a backbone takes, in pixels; `fixed` means its default size and no other."""

    rule: Literal["any", "fixed"]
    minimum: int
    multiple_of: int


@dataclass(frozen=True, slots=True)
class PublishedTop1:
    """ImageNet-1k top-1 accuracy that somebody else measured, and where it is stated."""

    percent: float
    source: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that Backbench states about a backbone without running it.

    `params` counts the trainable numbers of the torch module; `gmacs` the multiply-adds of its convolutions and
    matrix products for one image of the default size, in thousand millions.
    """

    name: str
    timm_tag: str
    family: str
    licence: str
    params: int
    gmacs: float
    size: tuple[int, int]
    sizes: Sizes
    preprocess: Preprocess
    skeleton: str
    top1: PublishedTop1 | None = None

    def check_size(self, height: int, width: int) -> None:
        """Raise ShapeMismatch, saying which sizes are taken, unless `height` x `width` is one of them."""
        if self.sizes.rule == "fixed":
            taken = (height, width) == self.size
        else:
            taken = all(side >= self.sizes.minimum and side % self.sizes.multiple_of == 0 for side in (height, width))
        if not taken:
            raise ShapeMismatch(f"{self.name} does not take {height}x{width}; it takes {self._sizes_taken()}")

    def _sizes_taken(self) -> str:
        if self.sizes.rule == "fixed":
            return f"{self.size[0]}x{self.size[1]} only"
        step = f" that are multiples of {self.sizes.multiple_of}" if self.sizes.multiple_of > 1 else ""
        return f"any height and width{step} from {self.sizes.minimum} pixels up"


def recipe_from_toml(text: str, source: str) -> Recipe:
    """Parse a recipe strictly; a missing, unknown or ill-typed key raises InvalidArgument naming `source` and the key.

    >>> recipe_from_toml("colour = 1", "x.toml")
    Traceback (most recent call last):
    backbench.domain.errors.InvalidArgument: x.toml: unknown key 'colour'; remove it or correct its name
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{source}: not valid TOML ({error}); correct the file") from error
    top = _Table(table, source, "")
    top.only(
        ["name", "timm_tag", "family", "licence", "params", "gmacs", "size", "skeleton", "sizes", "preprocess"],
        optional=["top1"],
    )
    sizes = top.table("sizes")
    sizes.only(["rule", "minimum", "multiple_of"])
    preprocess = top.table("preprocess")
    preprocess.only(["mean", "std", "interpolation", "crop_ratio"])
    return Recipe(
        name=top.text("name"),
        timm_tag=top.text("timm_tag"),
        family=top.text("family"),
        licence=top.text("licence"),
        params=top.count("params"),
        gmacs=top.positive("gmacs"),
        size=top.pair("size"),
        sizes=Sizes(
            rule=cast(Literal["any", "fixed"], sizes.one_of("rule", ("any", "fixed"))),
            minimum=sizes.count("minimum"),
            multiple_of=sizes.count("multiple_of"),
        ),
        preprocess=Preprocess(
            mean=preprocess.triple("mean"),
            std=preprocess.triple("std", above_zero=True),
            interpolation=cast(Interpolation, preprocess.one_of("interpolation", get_args(Interpolation))),
            crop_ratio=preprocess.positive("crop_ratio", upper=1.0),
        ),
        skeleton=top.text("skeleton"),
        top1=_top1(top),
    )


def _top1(top: _Table) -> PublishedTop1 | None:
    if not top.has("top1"):
        return None
    table = top.table("top1")
    table.only(["percent", "source"])
    return PublishedTop1(percent=table.positive("percent", upper=100.0), source=table.text("source"))


class _Table:
    """A TOML table that knows its file and its place in it, so that every complaint can name both."""

    def __init__(self, values: Mapping[str, Any], source: str, prefix: str) -> None:
        self._values = values
        self._source = source
        self._prefix = prefix

    def has(self, key: str) -> bool:
        return key in self._values

    def only(self, required: list[str], optional: list[str] | None = None) -> None:
        for key in self._values:
            if key not in required and key not in (optional or []):
                raise InvalidArgument(
                    f"{self._source}: unknown key '{self._prefix}{key}'; remove it or correct its name"
                )
        for key in required:
            if key not in self._values:
                raise InvalidArgument(f"{self._source}: missing key '{self._prefix}{key}'; add it")

    def table(self, key: str) -> _Table:
        value = self._values[key]
        if not isinstance(value, dict):
            raise self._wrong(key, "must be a table")
        return _Table(value, self._source, f"{self._prefix}{key}.")

    def text(self, key: str) -> str:
        value = self._values[key]
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "must be a text that is not empty")
        return value

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in allowed:
            raise self._wrong(key, f"must be one of {', '.join(allowed)}")
        return value

    def count(self, key: str) -> int:
        value = self._values[key]
        if not _is_count(value):
            raise self._wrong(key, "must be a whole number from 1 up")
        return cast(int, value)

    def positive(self, key: str, upper: float = float("inf")) -> float:
        value = self._values[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= upper:
            limit = "" if upper == float("inf") else f" and at most {upper:g}"
            raise self._wrong(key, f"must be a number above 0{limit}")
        return float(value)

    def pair(self, key: str) -> tuple[int, int]:
        value = self._values[key]
        if not isinstance(value, list) or len(value) != 2 or not all(_is_count(side) for side in value):
            raise self._wrong(key, "must be [height, width] in pixels")
        return (value[0], value[1])

    def triple(self, key: str, *, above_zero: bool = False) -> tuple[float, float, float]:
        value = self._values[key]
        if not isinstance(value, list) or len(value) != 3 or not all(type(v) in (int, float) for v in value):
            raise self._wrong(key, "must be three numbers, one a colour channel")
        if above_zero and min(value) <= 0:
            raise self._wrong(key, "must be three numbers above 0")
        return (float(value[0]), float(value[1]), float(value[2]))

    def _wrong(self, key: str, what: str) -> InvalidArgument:
        return InvalidArgument(f"{self._source}: key '{self._prefix}{key}' {what}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1
