"""Add a backbone to the catalogue: its recipe from timm's own statements, its skeleton, its counted multiply-adds.

What others published ([top1], [[published]]) is kept from the recipe that is there, or added by hand afterwards. A
backbone whose graph is not the same for all sizes needs several entries of [[skeletons]]: write these first.
"""

from __future__ import annotations

import argparse
import re
from importlib.resources import files
from pathlib import Path

from backbench.controller.analysis.graph import analyse
from backbench.controller.export.recipe_draft import recipe_text
from backbench.controller.export.skeleton_making import make_skeleton
from backbench.controller.export.timm_import import import_timm
from backbench.models import catalog
from backbench.models.graph import shaped_graph
from backbench.models.recipe import Recipe, SkeletonFile, recipe_from_toml

ZOO = Path(str(files("backbench.models")))


def smallest(name: str) -> int:
    """A patch, where the name says one; else five halvings."""
    patch = re.search(r"patch(\d+)", name)
    return int(patch[1]) if patch else 32


def main() -> None:
    """One recipe, or only the multiply-adds of recipes that are there."""
    parser = argparse.ArgumentParser(prog="make-recipe", description=__doc__)
    parser.add_argument("name", help="a timm name")
    parser.add_argument("--minimum", type=int, metavar="PIXELS", help="smallest side; default: the patch, or 32")
    parser.add_argument("--multiple-of", type=int, default=1, metavar="PIXELS", help="sides are multiples of this")
    parser.add_argument("--keep-skeleton", action="store_true", help="take the skeleton that is there")
    arguments = parser.parse_args()
    name, timm = arguments.name, import_timm()
    known: Recipe | None = catalog.recipe(name) if name in catalog.names() else None
    skeletons = (SkeletonFile(f"{name}.onnx", arguments.minimum or smallest(name), arguments.multiple_of),)
    if known is not None and arguments.minimum is None:
        skeletons = known.skeletons
    top1, published = (known.top1, known.published) if known else (None, ())
    draft = recipe_from_toml(recipe_text(timm, name, skeletons, 1.0, top1, published), name)
    for file in skeletons:
        if not (arguments.keep_skeleton and (ZOO / "skeletons" / file.file).is_file()):
            make_skeleton(timm, draft, file, ZOO / "skeletons" / file.file)
    height, width = draft.size
    path = ZOO / "skeletons" / draft.skeleton_for(height, width)
    gmacs = (analyse(shaped_graph(path, batch=1, height=height, width=width)).macs or 0) / 1e9
    text = recipe_text(timm, name, skeletons, gmacs, top1, published)
    (ZOO / "recipes" / f"{name}.toml").write_text(text, encoding="utf-8")
    print(f"recipes/{name}.toml: {draft.params / 1e6:.2f} M parameters, {gmacs:.4g} GMACs")


if __name__ == "__main__":
    main()
