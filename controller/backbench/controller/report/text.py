"""Tables for people: they fit 80 columns, and read as well without colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from backbench.controller.report.conversion import conversion_rows
from backbench.controller.report.engine_rows import (
    backend_words,
    engine_rows,
    precision_of,
)
from backbench.controller.report.scenario import load_rows, scenario_tables, scenario_words
from backbench.controller.report.telemetry import spike_table, telemetry_rows
from backbench.controller.report.words import (
    NONE,
    judgement,
    number,
    outputs_wrong,
    percent,
    percentile,
    table_of,
    word,
)

if TYPE_CHECKING:
    from backbench.controller.store.records import DeviceRecord

_PERCENTILES = ("p50", "p90", "p95", "p99")


def run_summary(document: Mapping[str, Any]) -> RenderableType:
    """One run: what it was, its spans, memory, cold start, validity, and a line a budget."""
    parts: list[RenderableType] = [_title(document)]
    if document["failure"] is not None:
        parts.append(Text(f"failed: {document['failure']['message']}", style="red"))
    if document["latency_ms"]["service"] is not None:
        parts.append(_spans(document))
        parts.extend(_footnotes(document))
    parts.extend(scenario_tables(document))
    parts.extend(spike_table(document))
    parts.append(_facts(document))
    parts.extend(_budget_lines(document))
    return Group(*parts, Text(""))


def comparison(documents: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Several runs, one row each."""
    several = len({document["backend"]["name"] for document in documents}) > 1
    headers = ("model", "backend") if several else ("model",)
    table = table_of(*headers, "size", "p50 ms", "p99 ms", "memory MB", "fps", "verdict", left=len(headers))
    for document in documents:
        service = document["latency_ms"][_pipeline(document)]
        table.add_row(
            document["model"]["name"],
            *((backend_words(document),) if several else ()),
            _size(document),
            percentile(service, "p50"),
            percentile(service, "p99"),
            number(document["memory_mb"] and document["memory_mb"]["peak"], 1),
            number(document["throughput_fps"], 1),
            word(judgement(document)),
        )
    return table


def ratios(compared: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Metrics of several runs with their ratio to the first one, and what forbids a verdict."""
    part = compared["compared"]
    names = [f"{document[part]['name']}\n{document['run_id'][-8:]}" for document in documents]
    table = table_of("metric", *(column for name in names for column in (name, "ratio")), left=1)
    for row in compared["rows"]:
        pairs = zip(row["values"], row["ratios"], strict=True)
        cells = [cell for value, ratio in pairs for cell in (number(value, 2), number(ratio, 3))]
        table.add_row(f"{row['metric']} {row['unit']}", *cells)
    lines: list[RenderableType] = [table]
    if part == "backend":
        lines.append(Text("Backends are compared: what belongs to a backend may differ, everything else may not."))
    if compared["differences"]:
        lines.append(Text(_why_not(compared, documents), style="bold yellow"))
        for row in compared["differences"]:
            values = " | ".join(str(value) for value in row["values"])
            lines.append(Text(f"  {row['field']}: {values}"))
    lines.extend(_effect_line(row, name) for row, name in zip(compared["effects"], names[1:], strict=True))
    return Group(*lines)


def _why_not(compared: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> str:
    if not compared["simulation_differs"]:
        return "no verdict: environments differ"
    devices = (document["device"] for document in documents)
    named = ", ".join(f"{each['name']} ({each.get('simulation') or 'real'})" for each in devices)
    return f"no verdict: a simulated device never compares with a real one or with another recording: {named}"


def _effect_line(effect: Mapping[str, Any], name: str) -> Text:
    line = Text(f"{' '.join(name.split())}: ")
    if effect["ratio"] is None:
        return line.append("no latencies to compare")
    line.append(effect["verdict"] or "no verdict", style="bold")
    line.append(f", {effect['ratio']:.3f} times the first run's latency")
    if effect["low"] is None:
        return line.append("; one launch says nothing about small differences: --launches 6", style="dim")
    floor = "" if effect["noise_floor"] is None else f"; noise floor {percent(effect['noise_floor'])}"
    return line.append(f" ({effect['low']:.3f} to {effect['high']:.3f}{floor})")


def device_table(records: Iterable[DeviceRecord]) -> RenderableType:
    """Devices, one row each."""
    table = table_of("device", "address", "board", "cpus", "memory", "agent", left=3)
    for record in records:
        device = record.device
        identity = device.identity if device else None
        memory = identity.memory_bytes / 1e9 if identity and identity.memory_bytes else None
        table.add_row(
            record.name,
            record.address,
            (identity.board or identity.soc or identity.machine) if identity else "not asked yet",
            str(identity.cpu_count or NONE) if identity else NONE,
            NONE if memory is None else f"{memory:.1f} GB",
            device.agent_version if device else NONE,
        )
    return table


def _title(document: Mapping[str, Any]) -> Text:
    device, backend = document["device"], document["backend"]
    simulated = f" (simulated: {device.get('simulation') or 'a recording'})" if device["simulated"] else ""
    threads = document["contract"].get("threads")
    title = Text(f"{document['model']['name']} {_size(document)}{_precision(document)}", style="bold")
    title.append(f" on {device['name']}{simulated}", style="default")
    title.append(f", {backend['name']} {backend['version'] or ''}".rstrip(), style="default")
    if threads:
        title.append(f", {threads} thread{'s' if threads != '1' else ''}", style="default")
    if words := scenario_words(document["scenario"]):
        title.append(f", {words}", style="default")
    title.append(f"   run {document['run_id'][-8:]}", style="dim")
    return title


def _precision(document: Mapping[str, Any]) -> str:
    """The precision in the title, where it is not the usual one."""
    precision = precision_of(document)
    return "" if precision in ("as-model", "fp32") else f" {precision}"


def _spans(document: Mapping[str, Any]) -> Table:
    table = table_of("span, ms", "mean", *_PERCENTILES, "p99 below", "max", left=1)
    for name, span in document["latency_ms"].items():
        redundant = not _open_loop(document) and name in ("e2e", "queue_delay")
        if span is None or redundant:
            continue
        percentiles = (percentile(span, each) for each in _PERCENTILES)
        below = number(span["p99"] and span["p99"]["upper"], 2)
        style = "bold" if name == _pipeline(document) else ""
        table.add_row(name, number(span["mean"], 2), *percentiles, below, number(span["max"], 2), style=style)
    return table


def _open_loop(document: Mapping[str, Any]) -> bool:
    return document.get("load") is not None or document["scenario"]["name"] == "idle-fire"


def _pipeline(document: Mapping[str, Any]) -> str:
    """The span that is a frame's whole time; a document of an older version does not say."""
    return str(document.get("pipeline", "service"))


def _footnotes(document: Mapping[str, Any]) -> list[RenderableType]:
    span = document["latency_ms"][_pipeline(document)] or {"n": 0, "n_eff": None}
    missing = ", ".join(f"{name} {need}" for name, need in document["insufficient"].items() if name != "p99.9")
    if not missing:
        return []
    worth = f", worth {span['n_eff']} independent ones" if span["n_eff"] not in (None, span["n"]) else ""
    return [Text(f"{NONE} too few frames: {missing} needed; here are {span['n']}{worth}", "yellow")]


def _facts(document: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    frames = document["frames"]
    extra = "".join(f", {frames[name]} {name}" for name in ("dropped", "errored") if frames[name])
    fps = document["throughput_fps"]
    table.add_row("frames", f"{frames['completed']} of {frames['offered']}{extra}, {number(fps, 1)} fps")
    for heading, line in (*load_rows(document.get("load")), *_launch_rows(document)):
        table.add_row(heading, line)
    for heading, line in engine_rows(document):
        table.add_row(heading, Text(line))
    if (memory := document["memory_mb"]) is not None:
        table.add_row("memory", _memory(memory))
    if (cold := document["cold_start_ms"]) is not None:
        table.add_row("cold start", _cold_start(cold, document.get("per_launch", ())))
    for heading, line in telemetry_rows(document):
        table.add_row(heading, Text(line))
    if (outputs := document.get("outputs")) is not None:
        table.add_row("outputs", _outputs(outputs))
    if (conversion := document["model"].get("conversion")) is not None:
        for name, words in conversion_rows(conversion):
            table.add_row(name, words)
    validity = document["validity"]
    reasons = "; ".join(row["detail"] for row in validity["reasons"] if row["code"] != "insufficient_frames")
    table.add_row("validity", Text.assemble(word(validity["status"]), f": {reasons}" if reasons else ""))
    return table


def _memory(memory: Mapping[str, Any]) -> str:
    if memory["peak"] is None:
        return f"{NONE} the kernel does not tell a process's highest"
    peaks = {name: phase["peak"] for name, phase in memory["phases"].items() if name != "after_free"}
    highest = max(peaks, key=peaks.__getitem__)
    return f"{memory['peak']:.1f} MB resident at its highest (VmHWM), in {highest.replace('_', ' ')}"


def _cold_start(cold: Mapping[str, Any], launches: Sequence[Mapping[str, Any]]) -> str:
    phases = ", ".join(f"{name.replace('_', ' ')} {length:.0f}" for name, length in cold["phases"].items())
    totals = [row["cold_start_ms"]["total"] for row in launches if row["cold_start_ms"] is not None]
    others = f"; {min(totals):.0f} to {max(totals):.0f} in {len(totals)} workers" if len(totals) > 1 else ""
    return f"{cold['total']:.0f} ms ({phases}){others}"


def _launch_rows(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Launches, transients that were cut, and what measuring itself costs; nothing of it in older documents."""
    launches = document.get("launches")
    if launches is not None and launches["p50_interval_ms"] is not None:
        low, high = launches["p50_interval_ms"]
        yield (
            "launches",
            f"{launches['count']}, p50 from {low:.2f} to {high:.2f} ms ({percent(launches['spread'])} apart)",
        )
    cut = [row["cut_frames"] for row in document.get("steady", ()) if row["cut_frames"]]
    if cut:
        yield "warm-up", f"{sum(cut)} more frames were a transient and are left out of the times"
    overhead = document.get("overhead") or {}
    if overhead.get("loop_overhead_p50_us") is not None:
        typical, worst = overhead["loop_overhead_p50_us"], overhead["loop_overhead_p99_us"]
        words = f"{typical:.1f} us a frame in the loop (p99 {worst:.1f})"
        if overhead["telemetry_difference"] is not None:
            words += f", telemetry {overhead['telemetry_difference'] * 100:+.1f} %"
        if overhead["noise_floor"] is not None:
            words += f"; noise floor {percent(overhead['noise_floor'])}"
        yield "own cost", words


def _outputs(outputs: Mapping[str, Any]) -> Text:
    frames = f"{outputs['frame_count']} frame{'s' if outputs['frame_count'] != 1 else ''}"
    if outputs["passed"]:
        worst = max(check["max_relative_error"] for check in outputs["checks"])
        if worst == 0:
            return Text(f"equal to the reference, bit for bit ({frames})")
        return Text(f"within {worst:.2g} of the reference ({frames})")
    wrong = [check for check in outputs["checks"] if not check["passed"]]
    return Text(f"{len(wrong)} of {len(outputs['checks'])} differ from the reference ({frames})", "bold red")


def _budget_lines(document: Mapping[str, Any]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for row in document["budgets"]:
        line = Text.assemble(word(row["verdict"]), "  ")
        if row["value"] is None:
            line.append(_unmeasured(row, document))
        elif outputs_wrong(document):
            line.append(f"{row['text']}: {row['value']:.1f} {row['unit']} with wrong outputs says nothing")
        else:
            line.append(f"{row['metric']} {row['value']:.4g} {row['unit']} is {_distance(row)} {row['limit']:g}")
            line.append(f" {row['unit']}")
            if row["verdict"] == "pass" and row.get("confident") is False:
                line.append(f", but may be as high as {row['upper']:.4g} {row['unit']}", style="yellow")
        lines.append(line)
    return lines


def _unmeasured(row: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    least = row.get("at_least")  # a document of an older version has none
    if least is None:
        why = document.get("energy_missing") if row["metric"] in ("energy", "power") else None
        return f"{row['text']}: not measured{f'; {why}' if why else ''}"
    said = f"{row['metric']} is at least {least:.4g} {row['unit']}"
    if row["verdict"] == "unknown":
        return f"{said}; too few independent frames to say whether it is within {row['limit']:g} {row['unit']}"
    return f"{said}, more than {row['limit']:g} {row['unit']}"


def _distance(row: Mapping[str, Any]) -> str:
    """How far a value is from its limit; a share of a share would only confuse."""
    if row["unit"] == "%":
        return "above" if row["value"] > row["limit"] else "within"
    share = row["value"] / row["limit"] - 1
    return f"{share * 100:.0f} % over" if share > 0 else f"{-share * 100:.0f} % below"


def _size(document: Mapping[str, Any]) -> str:
    return "x".join(str(side) for side in document["model"]["size"])
