"""An export for people: what was written, how right it is, and what a conversion did to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backbench.controller.report.conversion import conversion_rows

if TYPE_CHECKING:
    from backbench.controller.export.exporter import Exported


def export_summary(exported: Exported) -> RenderableType:
    """The file, the model in it, its outputs, and its errors."""
    manifest = exported.manifest
    model = manifest["model"] or {}
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    size_mb = manifest["size_bytes"] / 1e6
    table.add_row("model", Text(f"{exported.files.model}, {size_mb:.1f} MB, opset {model.get('opset')}"))
    table.add_row("sha256", manifest["sha256"])
    beside = f"{exported.files.manifest.name}, {exported.files.reference.name}"
    table.add_row("beside it", Text(beside))
    table.add_row("weights", _weights(model))
    table.add_row("input", f"{_dims(model['input']['dims'])} {model['input']['dtype']}, {_preprocess(manifest)}")
    for output in model.get("outputs", ()):
        stride = f", stride {output['stride']}" if output["stride"] else ""
        table.add_row("output", f"{output['name']}: {output['channels']} channels, {output['layout']}{stride}")
    if (verification := manifest["verification"]) is not None:
        table.add_row("compared", _verification(verification))
    for name, words in conversion_rows(manifest["precision"] or {}):
        table.add_row(name, words)
    title = Text(f"{model.get('name', exported.files.model.stem)}", style="bold")
    if model.get("tag") and model.get("weights") == "pretrained":
        title.append(f".{model['tag']}", style="default")
    return Group(title, table)


def _weights(model: Mapping[str, Any]) -> str:
    digest = model.get("weights_sha256")
    known = f", digest {digest[:16]}" if digest else ""
    params = f"{model.get('params', 0) / 1e6:.2f} M parameters"
    licence = f", {model['licence']}" if model.get("licence") else ""
    return f"{model.get('weights', 'unknown')}{known}, {params}{licence}"


def _preprocess(manifest: Mapping[str, Any]) -> str:
    image = manifest["preprocess"]
    return f"RGB, {image['interpolation']}, crop {image['crop_ratio']:g} (digest {manifest['preprocess_digest']})"


def _verification(verification: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{height}x{width}" for height, width in verification["sizes"])
    return (
        f"within {verification['worst']:.1e} of {verification['against']} on {verification['frame_count']} photographs"
        f" at {sizes} ({verification['tolerance']:g} is tolerated)"
    )


def _dims(dims: list[Any]) -> str:
    return "x".join(str(dim) for dim in dims)
