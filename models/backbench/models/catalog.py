"""The backbones that Backbench ships, by their timm name."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files
from pathlib import Path

from backbench.domain.errors import UnknownBackbone
from backbench.models.recipe import Recipe, recipe_from_toml

_LISTED_AT_MOST = 12


@cache
def names() -> tuple[str, ...]:
    """Every backbone's name, sorted.

    >>> "resnet50" in names()
    True
    """
    folder = files(__package__).joinpath("recipes")
    return tuple(sorted(entry.name[: -len(".toml")] for entry in folder.iterdir() if entry.name.endswith(".toml")))


@cache
def recipe(name: str) -> Recipe:
    """The recipe called `name`; raises UnknownBackbone, offering the closest names, where there is none.

    >>> recipe("resnet50").size
    (224, 224)
    """
    if name not in names():
        raise UnknownBackbone(_unknown(name))
    text = files(__package__).joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    return recipe_from_toml(text, source=f"recipes/{name}.toml")


def skeleton_path(name: str, size: tuple[int, int] | None = None) -> Path:
    """Where the skeleton of the backbone called `name` lies, for its default size or for (height, width).

    Raises ShapeMismatch, saying which sizes are taken, for one that is not.
    """
    of = recipe(name)
    return Path(str(files(__package__).joinpath("skeletons", of.skeleton_for(*(size or of.size)))))


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), names(), n=3, cutoff=0.5)
    if close:
        return f"no backbone is called '{name}'; did you mean {' or '.join(close)}? Or give the path of an .onnx file"
    listed = ", ".join(names()[:_LISTED_AT_MOST])
    more = len(names()) - _LISTED_AT_MOST
    rest = f" and {more} more" if more > 0 else ""
    return f"no backbone is called '{name}'; choose one of {listed}{rest}, or give the path of an .onnx file"
