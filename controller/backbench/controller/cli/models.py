"""`backbench models`: the backbones that can be named in other commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from backbench.controller.cli.options import Json
from backbench.controller.cli.output import print_answer, print_json, print_line

if TYPE_CHECKING:
    from backbench.models.recipe import Recipe


def models(json: Json = False) -> int:
    """Every backbone that Backbench ships: what it costs, what others measured of it, its licence."""
    from backbench.models import catalog

    recipes = [catalog.recipe(name) for name in catalog.names()]
    if json:
        print_json({"schema": "backbench.models/1", "models": [asdict(recipe) for recipe in recipes]})
        return 0
    _print(sorted(recipes, key=lambda recipe: (recipe.family, recipe.gmacs)))
    return 0


def _print(recipes: Sequence[Recipe]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("backbone", "family"):
        table.add_column(heading, no_wrap=True)
    for heading in ("params (M)", "GMACs", "size", "top-1 (%)"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("licence of the weights", no_wrap=True)
    for recipe in recipes:
        top1 = "—" if recipe.top1 is None else f"{recipe.top1.percent:.1f} at {recipe.top1.size}"
        height, width = recipe.size
        size = str(height) if height == width else f"{height}x{width}"
        numbers = (f"{recipe.params / 1e6:.1f}", f"{recipe.gmacs:.2f}", size, top1)
        table.add_row(recipe.name, recipe.family, *numbers, recipe.licence)
    print_answer(table)
    sources = ", ".join(sorted({recipe.top1.source for recipe in recipes if recipe.top1}))
    print_line("")
    print_line(f"top-1 on ImageNet-1k of timm's default weights, as published: {sources}")
    print_line("GMACs: convolutions and matrix products of the deploy form, for one image of the default size.")
    print_line("Any other timm name works with --weights, where torch and timm are installed.")
