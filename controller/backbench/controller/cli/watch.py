"""`backbench watch`: a device's sensors, live."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from backbench.controller.cli.options import Insecure, Json, open_store

if TYPE_CHECKING:
    from backbench.controller.report.live import Latest, Recording
    from backbench.domain.telemetry import TelemetryBlock

_LINE_S = 1.0
_REDRAW_S = 0.2


def watch(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device (see backbench device list).")],
    rate: Annotated[float, typer.Option("--rate", metavar="HZ", help="Samples a second at most, 0.1 to 10.")] = 2.0,
    sensor: Annotated[
        list[str] | None,
        typer.Option(
            "--sensor",
            metavar="NAME",
            help="Read a source that costs the device something too: pmic, tegrastats or jtop; repeatable.",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", metavar="N", help="End after so long; default: with Ctrl-C.")
    ] = None,
    insecure: Insecure = False,
    json: Json = False,
) -> int:
    """Show a device's temperatures, clocks, power, memory and state of throttling until Ctrl-C.

    On a terminal one table is kept up to date; elsewhere a line a second is printed. While a run measures, the watch
    shows what the run samples and asks for nothing more.
    """
    from backbench.controller.cli.output import print_json
    from backbench.controller.operations.watching import WatchRequest, check_watch, watched
    from backbench.controller.report.live import Latest, Recording

    request = WatchRequest(device, rate, tuple(sensor or ()), seconds)
    check_watch(request)
    store = open_store(context)
    recording = Recording() if json else None
    with watched(store, request, insecure) as (known, blocks):
        latest = Latest(known, device)
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
            _follow(blocks, latest, recording)
    if recording is not None:
        print_json(recording.document(known, device))
    return 0


def _follow(blocks: Iterator[TelemetryBlock], latest: Latest, recording: Recording | None) -> None:
    if recording is not None:
        for block in blocks:
            recording.take(block)
    elif sys.stdout.isatty():
        _redraw(blocks, latest)
    else:
        _lines(blocks, latest)


def _redraw(blocks: Iterator[TelemetryBlock], latest: Latest) -> None:
    from rich.console import Console
    from rich.live import Live

    from backbench.controller.cli.output import Harmless
    from backbench.controller.report.live import live_table

    with Live(console=Console(highlight=False, markup=False, emoji=False), auto_refresh=False) as live:
        for block in blocks:
            latest.take(block)
            live.update(Harmless(live_table(latest)), refresh=True)


def _lines(blocks: Iterator[TelemetryBlock], latest: Latest) -> None:
    """A line a second at most, so that every source has had its turn; the last one too."""
    from backbench.controller.cli.output import print_line
    from backbench.controller.report.live import live_line

    said_s = time.monotonic()
    pending = False
    for block in blocks:
        latest.take(block)
        pending = True
        if time.monotonic() - said_s >= _LINE_S:
            said_s, pending = time.monotonic(), False
            print_line(live_line(latest))
            sys.stdout.flush()
    if pending:
        print_line(live_line(latest))
