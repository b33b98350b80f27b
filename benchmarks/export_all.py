"""Every recipe exported, and held against torch and against what others published.

    python benchmarks/export_all.py [NAME...]      # the table: benchmarks/results/export.md, the numbers: export.json

A row is one backbone at its default size with random weights: how long torch's exporter took, how large the file and
the skeleton are, how far ONNX Runtime is from torch on three photographs, parameters and multiply-adds with their
relative difference to each published figure. Two ways of counting are published. torchvision counts convolutions and
matrix products, as we do on the graph. timm's figures come from a counter that adds two for each number that a batch
normalisation gives and five for each of a layer normalisation, in the form that is trained; to compare, the same is
counted here on the torch module. A difference counts as reached within 1 %, or within what the figure was rounded to.
Names that are given replace their rows; the others stay.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backbench.controller.analysis.graph import analyse
from backbench.controller.export.process import export_with_torch
from backbench.controller.export.request import ExportRequest
from backbench.controller.export.timm_import import import_timm
from backbench.domain.errors import BackbenchError
from backbench.models.catalog import names, recipe, skeleton_path
from backbench.models.graph import shaped_graph
from backbench.models.recipe import PublishedCost, Recipe

RESULTS = Path(__file__).with_name("results")
WITHIN = 0.01


def gmacs_of_graph(path: Path, height: int, width: int) -> float:
    """Multiply-adds of convolutions and matrix products in the deploy form."""
    macs = analyse(shaped_graph(path, batch=1, height=height, width=width)).macs
    if macs is None:
        raise SystemExit(f"{path}: a shape in the graph is unknown")
    return macs / 1e9


def gmacs_with_norms(timm: Any, name: str, side: int) -> float:
    """Multiply-adds of the form that is trained, with normalisations counted as timm's figures do."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    timm.layers.set_fused_attn(False)
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    module = timm.create_model(name, **({"img_size": side} if fixed else {})).eval()
    extra = 0

    def count(each: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal extra
        extra += output.numel() * (5 if isinstance(each, torch.nn.LayerNorm) else 2)

    for each in module.modules():
        if isinstance(each, (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm)):
            each.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        module(torch.zeros(1, 3, side, side))
    return (int(flops.get_total_flops()) / 2 + extra) / 1e9


def published(timm: Any, of: Recipe, cost: PublishedCost) -> dict[str, Any]:
    """One published figure beside our own, counted in the same way."""
    if cost.norms:
        gmacs = gmacs_with_norms(timm, of.name, cost.size)
    else:
        path = skeleton_path(of.name, (cost.size, cost.size))
        gmacs = gmacs_of_graph(path, cost.size, cost.size)
    difference = gmacs / cost.gmacs - 1
    return {
        "source": cost.source,
        "size": cost.size,
        "gmacs": cost.gmacs,
        "ours": gmacs,
        "difference": difference,
        "rounded_to": cost.resolution,
        "params_millions": cost.params_millions,
        "params_equal": math.isclose(of.params / 1e6, cost.params_millions, abs_tol=0.00501),
        "reached": abs(difference) <= WITHIN or abs(gmacs - cost.gmacs) <= cost.resolution / 2 * 1.001,
    }


def measured(timm: Any, name: str) -> dict[str, Any]:
    """One row."""
    of = recipe(name)
    height, width = of.size
    graph = shaped_graph(skeleton_path(name), batch=1, height=height, width=width)
    row: dict[str, Any] = {
        "name": name,
        "size": [height, width],
        "params": of.params,
        "params_of_timm": sum(parameter.numel() for parameter in timm.create_model(name).parameters()),
        "gmacs": gmacs_of_graph(skeleton_path(name), height, width),
        "operators": len(graph.graph.node),
        "skeleton_bytes": skeleton_path(name).stat().st_size,
        "published": [published(timm, of, cost) for cost in of.published],
    }
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        made = export_with_torch(ExportRequest(name, height, width), Path(folder), lambda _: None)
        row |= {
            "export_s": made.facts["export_s"],
            "whole_s": time.perf_counter() - begun,
            "file_bytes": made.model.stat().st_size,
            "error": made.facts["verification"]["worst"],
            "tolerance": made.facts["verification"]["tolerance"],
        }
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        (
            "| backbone | size | export s | file MB | skeleton kB | error against torch | M parameters | GMACs"
            " | torchvision's GMACs | timm's GMACs (norms counted) |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = {cost["source"].split()[0]: cost for cost in row["published"]}
        exact = "" if row["params"] == row["params_of_timm"] else " (differs from timm)"
        lines.append(
            f"| {row['name']} | {row['size'][0]} | {row['export_s']:.1f} | {row['file_bytes'] / 1e6:.1f}"
            f" | {row['skeleton_bytes'] / 1e3:.0f} | {row['error']:.1e} | {row['params'] / 1e6:.3f}{exact}"
            f" | {row['gmacs']:.4g} | {_cell(cells.get('torchvision'))} | {_cell(cells.get('timm'))} |"
        )
    costs = [cost for row in rows for cost in row["published"]]
    equal = sum(row["params"] == row["params_of_timm"] for row in rows)
    within = sum(abs(cost["difference"]) <= WITHIN for cost in costs)
    rounded = sum(cost["reached"] and abs(cost["difference"]) > WITHIN for cost in costs)
    lines += [
        "",
        (
            f"{len(rows)} backbones exported; parameters equal timm's in {equal}; of {len(costs)} published"
            f" figures {within} are met within 1 %, {rounded} more within their rounding. Skeletons together:"
            f" {sum(row['skeleton_bytes'] for row in rows) / 1e6:.2f} MB."
        ),
    ]
    return "\n".join(lines)


def _cell(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return "—"
    at = f" at {cost['size']}"
    mark = "" if cost["reached"] else " **not reached**"
    return f"{cost['gmacs']:g}{at}: {cost['difference'] * 100:+.2f} %{mark}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="backbones of the catalogue; all by default")
    arguments = parser.parse_args()
    timm = import_timm()
    kept = RESULTS / "export.json"
    rows = {row["name"]: row for row in json.loads(kept.read_text())["rows"]} if kept.exists() else {}
    failed = []
    RESULTS.mkdir(exist_ok=True)
    for name in arguments.names or names():
        try:
            rows[name] = measured(timm, name)
        except BackbenchError as error:
            failed.append(name)
            print(f"{name}: {error.message}", file=sys.stderr, flush=True)
            continue
        row = rows[name]
        print(f"{name}: {row['export_s']:.1f} s, error {row['error']:.1e}, {row['gmacs']:.4g} GMACs", flush=True)
        ordered = [rows[each] for each in sorted(rows) if each in names()]
        versions = {
            each: importlib.metadata.version(each).partition("+")[0]
            for each in ("torch", "timm", "onnx", "onnxruntime")
        }
        kept.write_text(json.dumps({"versions": versions, "rows": ordered}, indent=1) + "\n")
        stated = ", ".join(f"{library} {version}" for library, version in versions.items())
        text = f"# Every recipe exported\n\nMade by `scripts/bench-export` with {stated}.\n\n{table(ordered)}\n"
        (RESULTS / "export.md").write_text(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
