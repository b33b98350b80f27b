"""What `backbench inspect` shows people, in at most 100 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_NONE = "—"
_LISTED_AT_MOST = 20
_TEXT_COLUMNS = 82


def inspection_summary(document: Mapping[str, Any]) -> RenderableType:
    """A model's numbers, its outputs, and what its file states."""
    parts: list[RenderableType] = [_title(document), Text(""), _facts(document), _outputs(document)]
    parts.extend(_footnotes(document))
    if document["roofline"] is not None:
        parts.extend((Text(""), _roofline(document)))
    return Group(*parts, Text(""))


def operator_table(document: Mapping[str, Any]) -> RenderableType:
    """The costliest operators: by their least time where peak rates are known, else by multiply-adds, then bytes."""
    timed = document["roofline"] is not None
    table = _table("operator", "type", "output", "MMACs", "share", "kB", "FLOP/B", *(("ms", "bound") * timed), left=3)
    ranked = sorted(document["operators"], key=_cost, reverse=True)
    total = document["graph"]["macs"]
    for row in ranked[:_LISTED_AT_MOST]:
        macs, moved = row["macs"], _moved(row)
        cells: list[Text | str] = [
            Text(_cut(row["name"], 20 if timed else 28)),
            Text(_cut(row["type"], 16)),
            _shape(row["output_shape"]),
            _NONE if macs is None else f"{macs / 1e6:.1f}",
            _NONE if macs is None or not total else f"{100 * macs / total:.1f} %",
            _NONE if moved is None else f"{moved / 1e3:.0f}",
            _number(row["flop_per_byte"], 1),
        ]
        if timed:
            cells += [_number(row["lower_bound_ms"], 3), str(row["bound"] or _NONE)]
        table.add_row(*cells)
    more = len(ranked) - _LISTED_AT_MOST
    if more <= 0:
        return table
    return Group(table, Text(f"and {more} more, cheaper ones; --json has them all", style="dim"), Text(""))


def _title(document: Mapping[str, Any]) -> Text:
    model, graph = document["model"], document["graph"]
    height, width = model["size"]
    title = Text(f"{model['name']} {height}x{width}", style="bold")
    title.append(f", batch {model['batch']}", style="default")
    domains = [name for name in graph["domains"] if name != "ai.onnx"]
    others = f" and {', '.join(domains)}" if domains else ""
    title.append(f"   {model['source']}, {_precision(document)}, opset {graph['opset']}{others}", style="dim")
    return title


def _precision(document: Mapping[str, Any]) -> str:
    stated = (document["model"]["stated"] or {}).get("precision")
    return stated if isinstance(stated, str) else document["graph"]["precision"]


def _facts(document: Mapping[str, Any]) -> Table:
    graph = document["graph"]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(max_width=_TEXT_COLUMNS)
    table.add_row("parameters", _parameters(document))
    shares = f"depthwise {_percent(graph['depthwise_share'])}, other groups {_percent(graph['grouped_share'])}"
    table.add_row("multiply-adds", f"{_count(graph['macs'])}; {shares}")
    table.add_row("activations", f"{_size(graph['activation_peak_bytes'])} alive at once (lower-bound estimate)")
    moved, intensity = graph["traffic_bytes"], graph["flop_per_byte"]
    table.add_row(
        "memory traffic",
        f"{_size(moved['unfused'])} operator by operator, {_size(moved['ideal'])} with everything between them fused",
    )
    table.add_row(
        "intensity",
        f"{_number(intensity['unfused'], 1)} FLOP/byte operator by operator, {_number(intensity['ideal'], 1)} fused",
    )
    for heading, text in _stated_rows(document):
        table.add_row(heading, Text(text))
    table.add_row("operators", Text(_listed(f"{count} {name}" for name, count in graph["operator_counts"].items())))
    return table


def _parameters(document: Mapping[str, Any]) -> str:
    graph, in_torch = document["graph"], document["model"]["torch_parameters"]
    stored = f"{_count(graph['parameters'])} stored, {_size(graph['weight_bytes'])}"
    if in_torch is None:
        return stored
    own = document["model"]["torch_parameters_size"]
    at = "" if own in (None, document["model"]["size"]) else f" (at {own[0]}x{own[1]})"
    return f"{_count(in_torch)} in torch{at}, {stored}"


def _stated_rows(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    model = document["model"]
    entry, image = model["input"], model["preprocess"]
    yield "input", f"{entry['name']} {_shape(document['graph']['input_shape'])} {entry['dtype']} RGB, NCHW"
    means = " ".join(f"{value:g}" for value in image["mean"])
    stds = " ".join(f"{value:g}" for value in image["std"])
    assumed = " (assumed: the file does not say)" if image["assumed"] else ""
    yield (
        "preprocessing",
        f"{image['interpolation']}, crop {image['crop_ratio']:g}, mean {means}, std {stds}{assumed}",
    )
    stated = model["stated"] or {}
    digest = stated.get("weights_sha256")
    weights = model["weights"] or "not stated"
    yield "weights", f"{weights}, sha256 {digest[:12]}" if isinstance(digest, str) else str(weights)
    yield "licence", model["licence"] or "not stated"
    if "exporter" in stated:
        versions = stated.get("versions")
        listed = versions.items() if isinstance(versions, dict) else ()
        yield "made by", ", ".join([str(stated["exporter"]), *(f"{name} {version}" for name, version in listed)])


def _outputs(document: Mapping[str, Any]) -> Table:
    table = _table("output", "shape", "kind", "feature map", "stride", "field px", "offset px", "sees", left=4)
    table.columns[-1].justify = "left"
    for row in document["outputs"]:
        stated, found = row["stated"] or {}, row["map"]
        place = _NONE
        if found is not None:
            place = f"{_shape(found['shape'])} {found['layout']}" if row["pooled"] else f"itself, {found['layout']}"
        known = found or {"stride_px": None, "receptive_field_px": None, "offset_px": None}
        table.add_row(
            Text(_cut(row["name"], 16)),
            _shape(row["shape"]),
            str(stated.get("kind", _NONE)),
            place,
            _pair(known["stride_px"]),
            _pair(known["receptive_field_px"]),
            _pair(known["offset_px"]),
            row["context"] or "unknown",
        )
    return table


def _footnotes(document: Mapping[str, Any]) -> Iterable[RenderableType]:
    if any(row["pooled"] for row in document["outputs"]):
        yield Text("A pooled output is described by the last map before the pooling.", style="dim")
    contexts = {row["context"] for row in document["outputs"]}
    if "gated" in contexts:
        yield Text("gated: the field is the local part; a branch over the whole map scales it.", style="dim")
    locals_ = {
        f"{_pair(row['local']['receptive_field_px'])} px at stride {_pair(row['local']['stride_px'])}"
        for row in document["outputs"]
        if row["local"] is not None
    }
    if locals_:
        yield Text(f"global: up to the first attention, the local part is {', '.join(sorted(locals_))}.", style="dim")
    if document["graph"]["macs"] is None:
        yield Text("— an operator's sizes or work are not known; sums with it are not given.", style="yellow")
    for line in document["model"]["contradictions"]:
        yield Text(line, style="yellow")


def _roofline(document: Mapping[str, Any]) -> RenderableType:
    found, graph = document["roofline"], document["graph"]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(max_width=_TEXT_COLUMNS)
    rates = f"{_count(found['peak_flops_per_s'])}FLOP/s, {_count(found['peak_bytes_per_s'])}B/s"
    precision = f" in {found['precision']}" if found["precision"] else ""
    table.add_row(
        "roofline", Text(f"{found['device']}: {rates}{precision}; ridge {found['ridge_flop_per_byte']:.1f} FLOP/byte")
    )
    least = found["lower_bound_ms"]
    table.add_row("at least", f"{_number(least['ideal'], 3)} ms fused, bound by {found['ideal_bound'] or _NONE}")
    bound = found["compute_bound_macs"]
    share = _percent(None if bound is None or not graph["macs"] else bound / graph["macs"])
    table.add_row(
        "", f"{_number(least['unfused'], 3)} ms operator by operator; compute-bound: {share} of multiply-adds"
    )
    if found["note"]:
        table.add_row("", Text(found["note"], style="yellow"))
    return table


def _cost(row: Mapping[str, Any]) -> tuple[float, int, int]:
    return row.get("lower_bound_ms") or 0.0, row["macs"] or 0, _moved(row) or 0


def _moved(row: Mapping[str, Any]) -> int | None:
    parts = [row["input_bytes"], row["weight_bytes"], row["output_bytes"]]
    return None if None in parts else sum(parts)


def _table(*headers: str, left: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place < left else "right", overflow="fold")
    return table


def _count(value: float | None) -> str:
    """A number with four figures and its power of a thousand: 25.56 M."""
    if value is None:
        return _NONE
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{_figures(value / power)} {letter}"
    return f"{_figures(value)} "


def _size(value: int | None) -> str:
    return _NONE if value is None else f"{_count(value)}B"


def _figures(value: float) -> str:
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(digits, 0)}f}"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.1f} %"


def _pair(values: Sequence[float] | None) -> str:
    """Height and width as one number where they are the same."""
    if values is None:
        return _NONE
    texts = list(dict.fromkeys(f"{value:g}" for value in values))
    return "x".join(texts if len(texts) == 1 else [f"{value:g}" for value in values])


def _shape(shape: Sequence[int] | None) -> str:
    return _NONE if shape is None else "x".join(str(side) for side in shape) or "one number"


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _listed(entries: Iterable[str]) -> str:
    """Entries with commas, in lines that break between entries only."""
    unbroken = ", ".join(entry.replace(" ", "\u00a0") for entry in entries)
    return textwrap.fill(unbroken, _TEXT_COLUMNS, break_on_hyphens=False).replace("\u00a0", " ")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
