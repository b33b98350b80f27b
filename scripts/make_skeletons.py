"""Export the catalogue's backbones with random weights and keep their skeletons. Called by scripts/make-skeletons.

The weights are random, so nobody's training is in a skeleton. The same versions of torch and timm give the same bytes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from backbench.controller.export.skeleton_making import make_skeleton
from backbench.controller.export.timm_import import import_timm
from backbench.models.catalog import names, recipe, skeleton_path


def main() -> None:
    """Make the skeletons of the names given, or of all."""
    parser = argparse.ArgumentParser(prog="make-skeletons", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="backbones of the catalogue; all by default")
    parser.add_argument("--into", type=Path, help="write to this folder instead of the catalogue's")
    arguments = parser.parse_args()
    timm = import_timm()
    for name in arguments.names or names():
        of = recipe(name)
        for file in of.skeletons:
            begun = time.perf_counter()
            destination = (arguments.into or skeleton_path(name).parent) / file.file
            skeleton = make_skeleton(timm, of, file, destination)
            size, operators = destination.stat().st_size, len(skeleton.graph.node)
            print(f"{file.file}: {size} bytes, {operators} operators, {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
