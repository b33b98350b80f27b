"""`backbench device`: the devices that can be named in other commands."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backbench.controller.cli.options import Insecure, Json, NoWait, open_store
from backbench.controller.cli.output import print_answer, print_json, print_line, print_note
from backbench.controller.cli.verdict import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from backbench.controller.store import DeviceRecord, DeviceRoofline, Store

app = typer.Typer(help="The devices that other commands can name.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The device's name.")]


@app.command("add")
def add(
    context: typer.Context,
    name: Name,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="HOST:PORT where its agent listens.")],
    tls: Annotated[
        bool, typer.Option("--tls", help="Ask for its certificate even on this machine, as through a tunnel.")
    ] = False,
    insecure: Insecure = False,
    check: Annotated[
        bool, typer.Option(" /--no-check", show_default=False, help="Do not ask the agent; the device may be off.")
    ] = True,
) -> int:
    """Give a device a name, after asking its agent who it is.

    Beyond this machine it must be of this controller's fleet: `backbench pair` takes one in, and adds it by itself.
    """
    from backbench.controller.operations.devices import add_device

    record = add_device(open_store(context), name, address, insecure=insecure, tls=tls, check=check)
    words = f": {board(record)}" if record.device else " (not asked)"
    print_line(f"{record.name} is {record.address}{words}")
    return 0


@app.command("list")
def list_devices(context: typer.Context, json: Json = False) -> int:
    """Every device."""
    from backbench.controller.report.text import device_table

    store = open_store(context)
    records = store.devices()
    if json:
        devices = [_document(record, store.roofline(record.name)) for record in records]
        print_json({"schema": "backbench.devices/1", "devices": devices})
    elif records:
        print_answer(device_table(records))
    else:
        print_line("No devices yet: backbench device add NAME HOST:PORT")
    return 0


@app.command("show")
def show(
    context: typer.Context,
    name: Name,
    roofline: Annotated[
        bool,
        typer.Option("--roofline", help="Measure its peak rates first, with two small models, and keep them."),
    ] = False,
    no_wait: NoWait = False,
    insecure: Insecure = False,
    json: Json = False,
) -> int:
    """One device as it is now: what it is, what it can run, what it can sense, and how fast it can be at most."""
    from backbench.controller.operations.devices import client_of, contact
    from backbench.controller.report.text import device_table
    from backbench.domain.errors import Unreachable

    store = open_store(context)
    record = store.device(name)
    if roofline and not _measured(store, name, insecure, wait=not no_wait):
        return INTERRUPTED
    status = 0
    try:
        with client_of(store, record, insecure) as client:
            contact(store, record, client)
        record = store.device(name)
    except Unreachable as error:
        if record.device is None:
            raise
        print_note(f"error: {error.message}; this is what it said last")
        status = error.exit_status
    known = store.roofline(name)
    if json:
        print_json(_document(record, known))
        return status
    print_answer(device_table([record]), *_details(record), *_sensors(record), *_roofline_lines(known))
    return status


@app.command("remove")
def remove(context: typer.Context, name: Name) -> int:
    """Forget a device; its runs stay."""
    open_store(context).remove_device(name)
    print_line(f"{name} is removed; its runs stay")
    return 0


def _measured(store: Store, name: str, insecure: bool, *, wait: bool) -> bool:
    """Measure the roofline; False when it was interrupted."""
    from backbench.controller.cli.interrupts import interrupts
    from backbench.controller.cli.progress import shown
    from backbench.controller.operations.roofline import measure_roofline
    from backbench.controller.operations.stop import Stop

    stop = Stop()
    with interrupts(stop), shown() as observer:
        return measure_roofline(store, name, observer, stop, insecure=insecure, wait=wait) is not None


def _document(record: DeviceRecord, roofline: DeviceRoofline | None) -> dict[str, Any]:
    return {
        "schema": "backbench.device/1",
        "name": record.name,
        "address": record.address,
        "added_unix_ns": record.added_unix_ns,
        "tls": bool(record.device_id),
        "certificate_not_after_unix_s": record.certificate_not_after_unix_s or None,
        "device": None if record.device is None else asdict(record.device),
        "roofline": None
        if roofline is None
        else {**asdict(roofline), "ridge_flop_per_byte": roofline.ridge_flop_per_byte},
    }


def board(record: DeviceRecord) -> str:
    """What a device is, in a word or two."""
    identity = record.device.identity if record.device else None
    return (identity.board or identity.soc or identity.hostname or "unknown board") if identity else "not asked yet"


def _details(record: DeviceRecord) -> list[str]:
    device = record.device
    if device is None:
        return []
    lines = ["", "Backends"]
    for backend in device.backends:
        state = ", ".join(backend.providers) if backend.available else f"not available: {backend.reason}"
        lines.append(f"  {backend.name} {backend.version}".rstrip() + f": {state}")
        if backend.engine_precisions:
            lines.append(f"    chooses a precision by itself: {', '.join(backend.engine_precisions)}")
        if backend.options:
            lines.append(f"    options: {', '.join(backend.options)}")
    return lines


def _sensors(record: DeviceRecord) -> list[RenderableType]:
    """What it is and the conditions that it is in, its sources of telemetry, and what they read."""
    from rich.table import Table

    from backbench.controller.report.live import identity_rows, sensor_table, source_table

    device = record.device
    if device is None:
        return []
    rows = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for name, words in identity_rows(device):
        rows.add_row(name, words)
    parts: list[RenderableType] = ["", "What it is", rows, "", "Sensors", sensor_table(device)]
    return [*parts, source_table(device)] if device.sensor_sources else parts


def _roofline_lines(roofline: DeviceRoofline | None) -> list[str]:
    if roofline is None:
        return []
    day = datetime.fromtimestamp(roofline.measured_unix_ns / 1e9).astimezone().date()
    threads = "" if roofline.threads is None else f", {roofline.threads} thread{'s' if roofline.threads != 1 else ''}"
    return [
        "",
        f"Roofline ({roofline.backend}, {roofline.precision}{threads}; measured {day})",
        f"  computing: {roofline.peak_flops_per_s / 1e9:.1f} GFLOP/s",
        f"  memory: {roofline.peak_bytes_per_s / 1e9:.1f} GB/s",
        f"  ridge point: {roofline.ridge_flop_per_byte:.1f} FLOP/byte",
    ]
