"""The layers of a run, slowest first: for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from backbench.controller.report.words import NONE, number, percent, table_of
from backbench.domain.errors import InvalidArgument

_WIDEST_NAME = 60
"""Characters; an engine that fuses layers joins all of their names."""


def layers_answer(document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], top: int | None) -> dict[str, Any]:
    """`backbench.layers/1`: the slowest `top` layers, or all. `rows` are in the order of execution.

    The shares are of the time of all layers together; no latency can be made of them, as profiling takes its own time.
    """
    total_ns = sum(row["mean_ns"] for row in rows)
    slowest = sorted(rows, key=lambda row: (-row["mean_ns"], row["index"]))
    return {
        "schema": "backbench.layers/1",
        "run_id": document["run_id"],
        "model": document["model"]["name"],
        "size": document["model"]["size"],
        "device": document["device"]["name"],
        "backend": document["backend"],
        **document["layers"],
        "layers": [
            {
                "index": row["index"],
                "name": row["name"],
                "operator": row["operator"] or None,
                "engine": row["provider"] or None,
                "mean_ms": row["mean_ns"] / 1e6,
                "share": row["mean_ns"] / total_ns if total_ns else None,
                "calls": row["call_count"],
            }
            for row in slowest[:top]
        ],
    }


def check_layers(document: Mapping[str, Any]) -> None:
    """Raises InvalidArgument, with what brings layers, for a run that has none."""
    if document.get("layers") is not None:  # a document of an older version has none
        return
    told = [line["text"] for line in document.get("log", ()) if line["text"].startswith("the layers pass")]
    why = f"; {told[-1]}" if told else ""
    model, backend = document["model"]["name"], document["backend"]["name"]
    raise InvalidArgument(
        f"run {document['run_id'][-8:]} has no layers{why}; they take a pass of their own: backbench profile {model}"
        f" --device {document['device']['name']} --backend {backend} --layers"
    )


def layers_table(answer: Mapping[str, Any]) -> RenderableType:
    """The layers, and below what they sum up to, by who ran them."""
    table = table_of("layer", "operator", "engine", "ms", "share", left=3)
    for row in answer["layers"]:
        table.add_row(
            _short(row["name"]),
            row["operator"] or NONE,
            row["engine"] or NONE,
            number(row["mean_ms"], 3),
            percent(row["share"]),
        )
    return Group(_title(answer), table, *(Text(line) for line in _lines(answer)))


def _title(answer: Mapping[str, Any]) -> Text:
    size = "x".join(str(side) for side in answer["size"])
    backend = f"{answer['backend']['name']} {answer['backend']['version'] or ''}".rstrip()
    title = Text(f"{answer['model']} {size}", style="bold")
    title.append(f" on {answer['device']}, {backend}", style="default")
    return title.append(f"   run {answer['run_id'][-8:]}", style="dim")


def _lines(answer: Mapping[str, Any]) -> list[str]:
    shown, count = len(answer["layers"]), answer["count"]
    slowest = f"; the slowest {shown}" if shown < count else ""
    lines = [f"{count} layers, {answer['total_ms']:.3f} ms together{slowest}"]
    lines += [
        f"{name or NONE}: {row['layers']} layers, {row['ms']:.3f} ms"
        for name, row in sorted(answer["engines"].items(), key=lambda each: -each[1]["ms"])
    ]
    inferences = "" if answer["inferences"] is None else f" of {answer['inferences']} inferences"
    lines.append(f"Means{inferences} under a profiler, which takes time itself: no latency is made of them.")
    if answer["times"] is not None:
        lines.append(f"The times are {answer['times']}.")
    return lines


def _short(name: str) -> str:
    """The name with its middle left out where it is long: beginning and end tell layers apart."""
    if len(name) <= _WIDEST_NAME:
        return name
    half = (_WIDEST_NAME - 3) // 2
    return f"{name[:half]}...{name[-half:]}"
