"""One backbone's recipe: what it is, which sizes it takes, how an image becomes its input."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from backbench.domain.errors import InvalidArgument, ShapeMismatch
from backbench.domain.preprocess import Interpolation, Preprocess

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class SkeletonFile:
    """One skeleton of a backbone, and the heights and widths it is for, in pixels; `maximum` None: no end."""

    file: str
    minimum: int
    multiple_of: int = 1
    maximum: int | None = None

    def takes(self, height: int, width: int) -> bool:
        """Whether it stands for the model of this size."""
        highest = max(height, width) if self.maximum is None else self.maximum
        return all(self.minimum <= side <= highest and side % self.multiple_of == 0 for side in (height, width))

    def __str__(self) -> str:
        if self.maximum == self.minimum:
            return f"{self.minimum}x{self.minimum}"
        step = f" that are multiples of {self.multiple_of}" if self.multiple_of > 1 else ""
        end = " pixels up" if self.maximum is None else f" to {self.maximum} pixels"
        return f"any height and width{step} from {self.minimum}{end}"


@dataclass(frozen=True, slots=True)
class PublishedTop1:
    """ImageNet-1k top-1 accuracy that somebody else measured, at which size (pixels), and where it is stated."""

    percent: float
    size: int
    source: str


@dataclass(frozen=True, slots=True)
class PublishedCost:
    """What somebody else counted: parameters in millions, and thousand millions of multiply-adds at `size` pixels.

    `norms` says that normalisation was counted among the multiply-adds, `resolution` to what the number was rounded.
    """

    params_millions: float
    gmacs: float
    resolution: float
    size: int
    norms: bool
    source: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that Backbench states about a backbone without running it.

    `params` counts the trainable numbers of the torch module; `gmacs` the multiply-adds of the deploy form's
    convolutions and matrix products for one image of the default size, in thousand millions.
    """

    name: str
    timm_tag: str
    family: str
    licence: str
    params: int
    gmacs: float
    size: tuple[int, int]
    preprocess: Preprocess
    skeletons: tuple[SkeletonFile, ...]
    top1: PublishedTop1 | None = None
    published: tuple[PublishedCost, ...] = ()

    def check_size(self, height: int, width: int) -> None:
        """Raise ShapeMismatch, saying which sizes are taken, unless `height` x `width` is one of them."""
        self.skeleton_for(height, width)

    def skeleton_for(self, height: int, width: int) -> str:
        """The file of the skeleton for one size. Raises ShapeMismatch, saying which sizes are taken."""
        for skeleton in self.skeletons:
            if skeleton.takes(height, width):
                return skeleton.file
        taken = ", or ".join(str(skeleton) for skeleton in self.skeletons)
        raise ShapeMismatch(f"{self.name} does not take {height}x{width}; it takes {taken}")


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
        ["name", "timm_tag", "family", "licence", "params", "gmacs", "size", "skeletons", "preprocess"],
        optional=["top1", "published"],
    )
    preprocess = top.table("preprocess")
    preprocess.only(["mean", "std", "interpolation", "crop_ratio"])
    skeletons = tuple(_skeleton(entry) for entry in top.tables("skeletons"))
    recipe = Recipe(
        name=top.text("name"),
        timm_tag=top.text("timm_tag"),
        family=top.text("family"),
        licence=top.text("licence"),
        params=top.count("params"),
        gmacs=top.positive("gmacs"),
        size=top.pair("size"),
        preprocess=Preprocess(
            mean=preprocess.triple("mean"),
            std=preprocess.triple("std", above_zero=True),
            interpolation=cast(Interpolation, preprocess.one_of("interpolation", get_args(Interpolation))),
            crop_ratio=preprocess.positive("crop_ratio", upper=1.0),
        ),
        skeletons=skeletons,
        top1=_top1(top),
        published=tuple(_published(entry) for entry in top.tables("published")) if top.has("published") else (),
    )
    if not any(skeleton.takes(*recipe.size) for skeleton in skeletons):
        raise InvalidArgument(f"{source}: no entry of 'skeletons' takes the default size; correct one of them")
    return recipe


def _skeleton(table: _Table) -> SkeletonFile:
    table.only(["file", "minimum"], optional=["multiple_of", "maximum"])
    return SkeletonFile(
        file=table.text("file"),
        minimum=table.count("minimum"),
        multiple_of=table.count("multiple_of") if table.has("multiple_of") else 1,
        maximum=table.count("maximum") if table.has("maximum") else None,
    )


def _published(table: _Table) -> PublishedCost:
    table.only(["params_millions", "gmacs", "resolution", "size", "norms", "source"])
    return PublishedCost(
        params_millions=table.positive("params_millions"),
        gmacs=table.positive("gmacs"),
        resolution=table.positive("resolution"),
        size=table.count("size"),
        norms=table.flag("norms"),
        source=table.text("source"),
    )


def _top1(top: _Table) -> PublishedTop1 | None:
    if not top.has("top1"):
        return None
    table = top.table("top1")
    table.only(["percent", "size", "source"])
    return PublishedTop1(table.positive("percent", upper=100.0), table.count("size"), table.text("source"))


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

    def tables(self, key: str) -> list[_Table]:
        value = self._values[key]
        if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
            raise self._wrong(key, "must be a list of tables")
        return [_Table(entry, self._source, f"{self._prefix}{key}.") for entry in value]

    def flag(self, key: str) -> bool:
        value = self._values[key]
        if not isinstance(value, bool):
            raise self._wrong(key, "must be true or false")
        return value

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
        if type(value) not in (int, float) or not 0 < value <= upper or value == float("inf"):
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
        if not isinstance(value, list) or len(value) != 3 or not all(map(_is_finite, value)):
            raise self._wrong(key, "must be three numbers, one a colour channel")
        if above_zero and min(value) <= 0:
            raise self._wrong(key, "must be three numbers above 0")
        return (float(value[0]), float(value[1]), float(value[2]))

    def _wrong(self, key: str, what: str) -> InvalidArgument:
        return InvalidArgument(f"{self._source}: key '{self._prefix}{key}' {what}")


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(cast(float, value)) < float("inf")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1
