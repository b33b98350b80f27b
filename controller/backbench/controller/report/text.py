"""Tables for people: they fit 80 columns, and read as well without colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backbench.controller.report.conversion import conversion_rows

if TYPE_CHECKING:
    from backbench.controller.store.records import DeviceRecord, RunRecord

_STYLES = {
    "pass": "green", "ok": "green", "done": "green", "over": "yellow", "unverified": "yellow", "unknown": "yellow",
    "queued": "cyan", "running": "cyan", "reject": "bold red", "invalid": "bold red", "failed": "bold red",
    "interrupted": "red", "cancelled": "yellow",
}  # fmt: skip
_NONE = "—"
_PERCENTILES = ("p50", "p90", "p95", "p99")


def run_summary(document: Mapping[str, Any]) -> RenderableType:
    """One run: what it was, its spans, memory, cold start, validity, and a line a budget."""
    parts: list[RenderableType] = [_title(document)]
    if document["failure"] is not None:
        parts.append(Text(f"failed: {document['failure']['message']}", style="red"))
    if document["latency_ms"]["service"] is not None:
        parts.append(_spans(document))
        parts.extend(_footnotes(document))
    parts.append(_facts(document))
    parts.extend(_budget_lines(document))
    return Group(*parts, Text(""))


def comparison(documents: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Several runs, one row each."""
    table = _table("model", "size", "p50 ms", "p99 ms", "memory MB", "fps", "verdict", left=1)
    for document in documents:
        service = document["latency_ms"]["service"]
        table.add_row(
            document["model"]["name"],
            _size(document),
            _percentile(service, "p50"),
            _percentile(service, "p99"),
            _number(document["memory_mb"] and document["memory_mb"]["peak"], 1),
            _number(document["throughput_fps"], 1),
            _judgement(document),
        )
    return table


def ratios(compared: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Metrics of several runs with their ratio to the first one, and what forbids a verdict."""
    names = [f"{document['model']['name']}\n{document['run_id'][-8:]}" for document in documents]
    table = _table("metric", *(column for name in names for column in (name, "ratio")), left=1)
    for row in compared["rows"]:
        pairs = zip(row["values"], row["ratios"], strict=True)
        cells = [cell for value, ratio in pairs for cell in (_number(value, 2), _number(ratio, 3))]
        table.add_row(f"{row['metric']} {row['unit']}", *cells)
    lines: list[RenderableType] = [table]
    if compared["differences"]:
        lines.append(Text("no verdict: environments differ", style="bold yellow"))
        for row in compared["differences"]:
            values = " | ".join(str(value) for value in row["values"])
            lines.append(Text(f"  {row['field']}: {values}"))
    else:
        lines.append(Text("Ratios are to the first run. One launch each: no statement about small differences.", "dim"))
    return Group(*lines)


def run_list(records: Iterable[RunRecord]) -> RenderableType:
    """Runs, one row each."""
    table = _table("run", "created", "device", "model", "size", "state", "verdict", left=7)
    for record in records:
        document = record.document
        created = datetime.fromtimestamp(record.created_unix_ns / 1e9).astimezone()
        table.add_row(
            record.run_id[-8:],
            created.strftime("%m-%d %H:%M"),
            record.device_name,
            record.spec.model.name,
            f"{record.spec.height}x{record.spec.width}",
            _word(record.state.value),
            _judgement(document) if document and (document["verdict"] or _wrong(document)) else _NONE,
        )
    return table


def device_table(records: Iterable[DeviceRecord]) -> RenderableType:
    """Devices, one row each."""
    table = _table("device", "address", "board", "cpus", "memory", "agent", left=3)
    for record in records:
        device = record.device
        identity = device.identity if device else None
        memory = identity.memory_bytes / 1e9 if identity and identity.memory_bytes else None
        table.add_row(
            record.name,
            record.address,
            (identity.board or identity.soc or identity.machine) if identity else "not asked yet",
            str(identity.cpu_count or _NONE) if identity else _NONE,
            _NONE if memory is None else f"{memory:.1f} GB",
            device.agent_version if device else _NONE,
        )
    return table


def _title(document: Mapping[str, Any]) -> Text:
    device, backend = document["device"], document["backend"]
    simulated = " (simulated)" if device["simulated"] else ""
    threads = document["contract"].get("threads")
    title = Text(f"{document['model']['name']} {_size(document)}{_precision(document)}", style="bold")
    title.append(f" on {device['name']}{simulated}", style="default")
    title.append(f", {backend['name']} {backend['version'] or ''}".rstrip(), style="default")
    if threads:
        title.append(f", {threads} thread{'s' if threads != '1' else ''}", style="default")
    title.append(f"   run {document['run_id'][-8:]}", style="dim")
    return title


def _precision(document: Mapping[str, Any]) -> str:
    """The precision in the title, where it is not the usual one."""
    precision = document["model"]["precision"]
    return "" if precision in ("as-model", "fp32") else f" {precision}"


def _spans(document: Mapping[str, Any]) -> Table:
    table = _table("span, ms", "mean", *_PERCENTILES, "max", left=1)
    for name, span in document["latency_ms"].items():
        redundant = document["scenario"]["name"] == "closed-loop" and name in ("e2e", "queue_delay")
        if span is None or redundant:
            continue
        percentiles = (_percentile(span, each) for each in _PERCENTILES)
        style = "bold" if name == "service" else ""
        table.add_row(name, _number(span["mean"], 2), *percentiles, _number(span["max"], 2), style=style)
    return table


def _footnotes(document: Mapping[str, Any]) -> list[RenderableType]:
    count = document["frames"]["completed"]
    missing = ", ".join(f"{name} needs {need}" for name, need in document["insufficient"].items())
    return [Text(f"{_NONE} too few frames: {missing}; this run has {count}", "yellow")] if missing else []


def _facts(document: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    frames = document["frames"]
    extra = "".join(f", {frames[name]} {name}" for name in ("dropped", "errored") if frames[name])
    fps = document["throughput_fps"]
    table.add_row("frames", f"{frames['completed']} of {frames['offered']}{extra}, {_number(fps, 1)} fps")
    if (memory := document["memory_mb"]) is not None:
        highest = max(memory["phases"], key=lambda name: memory["phases"][name]["peak"])
        table.add_row("memory", f"{memory['peak']:.1f} MB at its highest, in {highest.replace('_', ' ')}")
    if (cold := document["cold_start_ms"]) is not None:
        phases = ", ".join(f"{name.replace('_', ' ')} {length:.0f}" for name, length in cold["phases"].items())
        table.add_row("cold start", f"{cold['total']:.0f} ms ({phases})")
    for name, row in (document["thermal"] or {}).items():
        table.add_row(
            "thermal", f"{name.partition('.')[2]} {row['start']:.0f} to {row['end']:.0f} °C, at most {row['max']:.0f}"
        )
    if (outputs := document.get("outputs")) is not None:
        table.add_row("outputs", _outputs(outputs))
    if (conversion := document["model"].get("conversion")) is not None:
        for name, words in conversion_rows(conversion):
            table.add_row(name, words)
    validity = document["validity"]
    reasons = "; ".join(row["detail"] for row in validity["reasons"] if row["code"] != "insufficient_frames")
    table.add_row("validity", Text.assemble(_word(validity["status"]), f": {reasons}" if reasons else ""))
    return table


def _outputs(outputs: Mapping[str, Any]) -> Text:
    frames = f"{outputs['frame_count']} frame{'s' if outputs['frame_count'] != 1 else ''}"
    if outputs["passed"]:
        worst = max(check["max_relative_error"] for check in outputs["checks"])
        if worst == 0:
            return Text(f"equal to the reference, bit for bit ({frames})")
        return Text(f"within {worst:.2g} of the reference ({frames})")
    wrong = [check for check in outputs["checks"] if not check["passed"]]
    return Text(f"{len(wrong)} of {len(outputs['checks'])} differ from the reference ({frames})", "bold red")


def _wrong(document: Mapping[str, Any]) -> bool:
    outputs = document.get("outputs")  # a document of an older version has none
    return outputs is not None and not outputs["passed"]


def _judgement(document: Mapping[str, Any]) -> Text:
    invalid = document["state"] == "done" and document["validity"]["status"] == "invalid"
    return _word("invalid" if invalid else document["verdict"] or document["state"])


def _budget_lines(document: Mapping[str, Any]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for row in document["budgets"]:
        line = Text.assemble(_word(row["verdict"]), "  ")
        if row["value"] is None:
            line.append(f"{row['text']}: not measured")
        elif _wrong(document):
            line.append(f"{row['text']}: {row['value']:.1f} {row['unit']} with wrong outputs says nothing")
        else:
            share = row["value"] / row["limit"] - 1
            how = f"{share * 100:.0f} % over" if share > 0 else f"{-share * 100:.0f} % below"
            line.append(f"{row['metric']} {row['value']:.1f} {row['unit']} is {how} {row['limit']:g} {row['unit']}")
        lines.append(line)
    return lines


def _table(*headers: str, left: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place < left else "right", overflow="fold")
    return table


def _percentile(span: Mapping[str, Any] | None, name: str) -> str:
    return _NONE if span is None or span[name] is None else _number(span[name]["value"], 2)


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _size(document: Mapping[str, Any]) -> str:
    return "x".join(str(side) for side in document["model"]["size"])


def _word(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))
