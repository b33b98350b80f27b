"""What sensors add to a run's summary: heat, throttling, clocks, energy, spikes, and a long run slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from backbench.controller.report.units import bars
from backbench.controller.report.words import NONE, number, percent, table_of

_SHOWN_SLICES = 20
_SHOWN_SPIKES = 5
_EVIDENCE = ("confirmed", "consistent")
_SHOWN_CLOCKS = 4
_SCOPES = {
    "module_input": "at the module's input",
    "board_input": "at the board's input",
    "sum_of_rails": "sum of the rails",
    "pmic_rails": "from the regulators",
    "gpu": "of the GPU alone",
    "package": "of the processor alone",
}


def telemetry_rows(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines of a run's facts; documents of older versions have temperatures at most."""
    thermal = document["thermal"] or {}
    if "temperatures" not in thermal:
        yield from _temperatures(thermal)
    else:
        yield from _temperatures(_notable(thermal["temperatures"]))
        yield "throttled", _throttled(thermal)
    yield from _prepared(document)
    yield from _clocks(document.get("clocks"))
    yield from _energy(document)
    if (spikes := document.get("spikes")) is not None and spikes["count"]:
        graded = ", ".join(f"{count} {name}" for name, count in spikes["grades"].items() if count)
        yield "spikes", f"{spikes['count']} frames ({percent(_share_of(document, spikes['count']), 2)}): {graded}"


def spike_table(document: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The longest spikes for which something speaks: throttling, or another cause. The document has more."""
    rows = [row for row in (document.get("spikes") or {"rows": []})["rows"] if _spoken_for(row)]
    if not rows:
        return
    shown = sorted(rows, key=lambda row: float(row["usual_ms"] - row["service_ms"]))[:_SHOWN_SPIKES]
    table = table_of("spike at", "frame", "ms", "usual", "throttling", "witness", "other causes", left=0)
    for column in table.columns[4:]:
        column.justify = "left"
    for row in sorted(shown, key=lambda row: float(row["at_s"])):
        others = [
            f"{each['cause']} ({each['grade']}: {each['witness']})"
            for each in row["causes"]
            if each["grade"] in _EVIDENCE
        ]
        table.add_row(
            f"{row['at_s']:.2f} s",
            str(row["index"]),
            number(row["service_ms"], 2),
            number(row["usual_ms"], 2),
            row["grade"],
            row["witness"],
            "; ".join(others) or NONE,
        )
    yield table


def _spoken_for(row: Mapping[str, Any]) -> bool:
    return row["grade"] in _EVIDENCE or any(each["grade"] in _EVIDENCE for each in row["causes"])


def slice_table(launch: Mapping[str, Any]) -> Iterator[RenderableType]:
    """A launch slice by slice, latency beside what was read, each with bars; then burst against sustained."""
    rows = launch.get("slices") or []
    if rows:
        yield _slices(_thinned(rows))
    if (lasting := launch.get("sustained")) is not None:
        change = f"{(lasting['ratio'] - 1) * 100:+.1f} %"
        by = "once it throttled" if lasting["by"] == "throttling" else f"({lasting['by']})"
        burst, late = number(lasting["burst_p50_ms"], 2), number(lasting["sustained_p50_ms"], 2)
        yield Text(f"p50 {burst} ms in the burst, {late} ms sustained: {change} {by}", style="bold")


def _slices(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    wanted = (("p50 ms", "p50_ms", 2), ("°C", "temp_c", 1), ("CPU MHz", "cpu_mhz", 0), ("GPU MHz", "gpu_mhz", 0),
              ("W", "power_w", 2))  # fmt: skip
    read = [each for each in wanted if any(row[each[1]] is not None for row in rows)]
    headers = [header for name, _, _ in read for header in (name, "")]
    held = any(row["throttled"] for row in rows)
    table = table_of("at", "frames", *headers, *(["throttled"] if held else []), left=0)
    columns = {key: bars([row[key] for row in rows]) for _, key, _ in read}
    for place, row in enumerate(rows):
        cells = [cell for _, key, digits in read for cell in (number(row[key], digits), columns[key][place])]
        last = [percent(row["throttled"], 0)] if held else []
        table.add_row(_clock_time(row["at_s"]), str(row["n"]), *cells, *last)
    return table


def _thinned(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    step = -(-len(rows) // _SHOWN_SLICES)
    return rows[::step]


def _clock_time(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _temperatures(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, row in rows.items():
        words = f"{row['start']:.0f} to {row['end']:.0f} °C, at most {row['max']:.0f}"
        yield "thermal", f"{name.partition('.')[2]} {words}"


def _notable(zones: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The junction where it is read, else the hottest zone; the document has them all."""
    if not zones:
        return {}
    name = "temp.tj" if "temp.tj" in zones else max(zones, key=lambda each: float(zones[each]["max"]))
    return {name: zones[name]}


def _throttled(thermal: Mapping[str, Any]) -> str:
    surface = "; the surface is hot" if thermal["hot_surface"] else ""
    if thermal["throttled"] is None:
        return f"not known: no witness of heat was read{surface}"
    if not thermal["throttled"]:
        names = [row["name"] for row in thermal["witnesses"] if row["throttled"] is False]
        return f"no, by {len(names)} witness{'es' if len(names) != 1 else ''}{surface}"
    named = ", ".join(
        row["name"] + (f" +{row['events']}" if row["events"] else "")
        for row in thermal["witnesses"]
        if row["throttled"]
    )
    onset = thermal["time_to_throttle_s"]
    since = f" after {onset['value']:.1f} s (between {onset['low']:.1f} and {onset['high']:.1f})" if onset else ""
    return f"yes{since}, by {named}; up to {percent(thermal['throttled_share'])} of the frames{surface}"


def _prepared(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if (gate := document.get("cool_gate")) is not None:
        start, end = (NONE if gate[name] is None else f"{gate[name]:.1f} °C" for name in ("start_c", "end_c"))
        met = "cool enough" if gate["cool"] else "not cool enough"
        yield "waited", f"{gate['waited_s']:.0f} s, from {start} to {end}: {met} for {gate['limit_c']:g} °C"
    if document.get("clocks_set"):
        yield "clocks set", ", ".join(f"{name}: {words}" for name, words in sorted(document["clocks_set"].items()))


def _clocks(clocks: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if clocks is None or not clocks["clocks"]:
        return
    told = [f"{name} {_range(row)}" for name, row in list(clocks["clocks"].items())[:_SHOWN_CLOCKS]]
    more = len(clocks["clocks"]) - len(told)
    pinned = {True: ", pinned", False: ", not pinned", None: ""}[clocks["pinned"]]
    yield "clocks", ", ".join(told) + (f" and {more} more" if more else "") + pinned


def _range(row: Mapping[str, float]) -> str:
    low, high = round(row["min"]), round(row["max"])
    return f"{low} MHz" if low == high else f"{low} to {high} MHz"


def _energy(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    energy, power = document.get("energy_j_per_frame"), document.get("power_w")
    if energy is not None:
        interval = f"({_joules(energy['low'])} to {_joules(energy['high'])})"
        yield "energy", f"{_joules(energy['value'])} a frame {interval}, {_how(energy)}, idle included"
    elif (why := document.get("energy_missing")) and document["state"] == "done":
        yield "energy", f"{NONE} {why}"
    if power is not None:
        highest = "" if power["max"] is None else f", {power['max']:.2f} W at most"
        yield "power", f"{power['mean']:.2f} W on average{highest}"


def _how(energy: Mapping[str, Any]) -> str:
    window = f" over {energy['window_s']:.2g} s" if energy["window_s"] else ""
    return f"{_SCOPES.get(energy['scope'], energy['scope'])}, {energy['method']}{window}"


def _joules(value: float) -> str:
    return f"{value:.3g} J" if value >= 1 else f"{value * 1e3:.3g} mJ"


def _share_of(document: Mapping[str, Any], count: int) -> float | None:
    completed = document["frames"]["completed"]
    return count / completed if completed else None
