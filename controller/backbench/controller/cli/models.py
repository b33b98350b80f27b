"""`backbench models`: the backbones that can be named in other commands."""

from __future__ import annotations

from dataclasses import asdict

from backbench.controller.cli.options import Json
from backbench.controller.cli.output import print_answer, print_json


def models(json: Json = False) -> int:
    """Every backbone that Backbench ships."""
    from rich.table import Table

    from backbench.models import catalog

    recipes = [catalog.recipe(name) for name in catalog.names()]
    if json:
        print_json({"schema": "backbench.models/1", "models": [asdict(recipe) for recipe in recipes]})
        return 0
    table = Table(box=None, pad_edge=False)
    for heading in ("backbone", "family", "licence", "size"):
        table.add_column(heading)
    for heading in ("params (M)", "GMACs", "top-1 (%)"):
        table.add_column(heading, justify="right")
    for recipe in recipes:
        top1 = "-" if recipe.top1 is None else f"{recipe.top1.percent:.1f}"
        height, width = recipe.size
        numbers = (f"{recipe.params / 1e6:.1f}", f"{recipe.gmacs:.2f}", top1)
        table.add_row(recipe.name, recipe.family, recipe.licence, f"{height}x{width}", *numbers)
    print_answer(table)
    return 0
