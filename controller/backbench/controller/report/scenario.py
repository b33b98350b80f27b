"""What a scenario adds to a run's summary: rows of its own, and tables for a search or a long run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from backbench.controller.report.telemetry import slice_table
from backbench.controller.report.words import NONE, number, percent, percentile, share, table_of, word

_SHOWN_MINUTES = 12
_FEWEST_MINUTES = 2


def scenario_words(scenario: Mapping[str, Any]) -> str:
    """How frames arrived, in a few words; empty for back to back."""
    name, rate = scenario["name"], scenario["rate_mhz"]
    if name == "closed-loop":
        return ""
    words = [name]
    if rate is not None:
        words.append(f"{'up to ' if name == 'sweep' else ''}{rate / 1000:g} fps")
    if scenario["queue_policy"] is not None:
        depth = "" if scenario["queue_policy"] == "unbounded" else f" {scenario['queue_depth']}"
        words.append(f"queue {scenario['queue_policy']}{depth}")
    if scenario["streams"] is not None:
        words.append(f"up to {scenario['streams']} at once")
    if scenario["idle_gap_ns"] is not None:
        words.append(f"after {scenario['idle_gap_ns'] / 1e6:g} ms of rest")
    return ", ".join(words)


def load_rows(load: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """How an open-loop scenario fared."""
    if load is None:
        return
    dropped = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in load["dropped"].items() if count)
    runs = f"; at most {load['longest_drop_run']} in a row" if load["longest_drop_run"] else ""
    yield "drops", f"{share(load['drop_ratio'])}{f': {dropped}' if dropped else ''}{runs}"
    if words := _p99_offered(load):
        yield "p99 offered", words
    if load["miss_ratio"] is not None:
        yield "misses", f"{share(load['miss_ratio'])} of the deadline of {load['deadline_ms']:.4g} ms, drops included"
    if (gap := load["output_gap_ms"]) is not None:
        yield "output gap", f"{number(gap['max'], 1)} ms at most between two results"
    if (age := load["age_of_information_ms"]) is not None:
        yield "result's age", f"{number(age['mean'], 1)} ms on average, {number(age['peak'], 1)} ms at most"
    if load["utilisation"] is not None:
        yield "busy", percent(load["utilisation"], 0)


def _p99_offered(load: Mapping[str, Any]) -> str:
    """The p99 over every frame that arrived; empty where it is that of the completed ones, or cannot be told."""
    told = load["p99_offered_ms"]
    if told["infinite"]:
        return "without end: more than 1 % of the frames that arrived have no result"
    if told["value"] is None or not (load["drop_ratio"] and load["drop_ratio"]["value"]):
        return ""
    return f"{number(told['value'], 2)} ms over all frames that arrived"


def scenario_tables(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A sweep's rates, the steps of streams, the minutes of a soak."""
    if (sweep := document.get("sweep")) is not None:
        yield from _sweep(sweep)
    if (streams := document.get("streams")) is not None:
        yield from _streams(streams, str(document["pipeline"]))
    if (soak := document.get("soak")) is not None:
        yield from _soak(soak)


def _sweep(sweep: Mapping[str, Any]) -> Iterator[RenderableType]:
    if not sweep["rows"]:
        return
    table = table_of("rate fps", "frames", "missed", "dropped", "holds", left=0)
    for row in sorted(sweep["rows"], key=lambda row: float(row["rate_fps"])):
        missed, dropped = (row[name] and row[name]["value"] for name in ("miss_ratio", "drop_ratio"))
        holds = "yes" if row["held"] else "no"
        table.add_row(
            f"{row['rate_fps']:.2f}", str(row["frames"]["offered"]), percent(missed, 2), percent(dropped, 2), holds
        )
    yield table
    tolerated = percent(sweep["tolerated_miss_ratio"], 2)
    if sweep["highest_fps"] is None:
        yield Text(f"No rate that was tried kept its misses within {tolerated}.", style="bold")
    else:
        yield Text(f"{sweep['highest_fps']:.2f} fps is the highest rate with at most {tolerated} missed.", style="bold")


def _streams(streams: Mapping[str, Any], pipeline: str) -> Iterator[RenderableType]:
    if not streams["rows"]:
        return
    table = table_of("engines", "p50 ms", "p99 ms", "fps together", "memory MB", "verdict", left=0)
    for row in streams["rows"]:
        table.add_row(
            str(row["streams"]),
            percentile(row["latency_ms"][pipeline], "p50"),
            percentile(row["latency_ms"][pipeline], "p99"),
            number(row["throughput_fps"], 1),
            number(row["memory_mb"], 0),
            word(row["verdict"] or NONE),
        )
    yield table
    verdicts = [row["verdict"] for row in streams["rows"]]
    most = streams["most_fitting"]
    if not any(verdicts):
        return
    if most is not None:
        yield Text(f"{most} at once keep the budget.", "bold")
    elif "unknown" in verdicts:
        yield Text("Whether even one keeps the budget was not measured.", "bold")
    else:
        yield Text("Not even one keeps the budget.", "bold")


def _soak(soak: Mapping[str, Any]) -> Iterator[RenderableType]:
    for launch in soak["launches"]:
        if launch.get("slices"):
            yield from slice_table(launch)
            yield Text(_slopes(launch))
            continue
        # a document of an older version has minutes alone
        table = table_of("minute", "frames", "p50 ms", "p99 ms", "fps", left=0)
        rows = launch["minutes"]
        step = -(-len(rows) // _SHOWN_MINUTES)
        for row in rows[::step] if step else ():
            cells = (number(row["p50_ms"], 2), number(row["p99_ms"], 2), number(row["fps"], 1))
            table.add_row(str(row["minute"]), str(row["n"]), *cells)
        yield table
        yield Text(_slopes(launch))


def _slopes(launch: Mapping[str, Any]) -> str:
    parts = []
    if len(launch["minutes"]) < _FEWEST_MINUTES:
        return "too short for a slope"
    if (drift := launch["latency_drift"]) is not None:
        interval = f"{drift['low'] * 100:+.1f} to {drift['high'] * 100:+.1f}"
        parts.append(f"latency {drift['per_hour'] * 100:+.1f} % an hour ({interval})")
    if (growth := launch["memory_growth"]) is not None:
        hourly = growth["bytes_per_hour"]
        interval = f"{hourly['low'] / 1e6:+.1f} to {hourly['high'] / 1e6:+.1f}"
        parts.append(f"memory {hourly['value'] / 1e6:+.1f} MB an hour ({interval})")
    return "; ".join(parts) or "too short for a slope"
