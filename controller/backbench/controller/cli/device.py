"""`backbench device`: the devices that can be named in other commands."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backbench.controller.cli.options import Insecure, Json, open_store
from backbench.controller.cli.output import print_answer, print_json, print_line, print_note
from backbench.controller.cli.verdict import INTERRUPTED

if TYPE_CHECKING:
    from backbench.controller.store import DeviceRecord, DeviceRoofline, Store

app = typer.Typer(help="The devices that other commands can name.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The device's name.")]


@app.command("add")
def add(
    context: typer.Context,
    name: Name,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="HOST:PORT where its agent listens.")],
    ca: Annotated[Path | None, typer.Option(metavar="PEM", help="The authority that signed its certificate.")] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="PEM", help="This controller's certificate.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its key.")] = None,
    insecure: Insecure = False,
    check: Annotated[
        bool, typer.Option(" /--no-check", show_default=False, help="Do not ask the agent; the device may be off.")
    ] = True,
) -> int:
    """Give a device a name, after asking its agent who it is."""
    from backbench.controller.client import Security
    from backbench.controller.operations.devices import add_device

    security = Security(_absolute(ca), _absolute(certificate), _absolute(key), insecure)
    record = add_device(open_store(context), name, address, security, check)
    board = f": {_board(record)}" if record.device else " (not asked)"
    print_line(f"{record.name} is {record.address}{board}")
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
    insecure: Insecure = False,
    json: Json = False,
) -> int:
    """One device as it is now: what it is, what it can run, what it can sense, and how fast it can be at most."""
    from backbench.controller.operations.devices import checked_device, client_of
    from backbench.controller.report.text import device_table
    from backbench.domain.errors import Unreachable

    store = open_store(context)
    record = store.device(name)
    if roofline and not _measured(store, name, insecure):
        return INTERRUPTED
    status = 0
    try:
        with client_of(record, insecure) as client:
            record = replace(record, device=checked_device(client))
        store.put_device(record)
    except Unreachable as error:
        if record.device is None:
            raise
        print_note(f"error: {error.message}; this is what it said last")
        status = error.exit_status
    known = store.roofline(name)
    if json:
        print_json(_document(record, known))
        return status
    print_answer(device_table([record]), *_details(record), *_roofline_lines(known))
    return status


@app.command("remove")
def remove(context: typer.Context, name: Name) -> int:
    """Forget a device; its runs stay."""
    open_store(context).remove_device(name)
    print_line(f"{name} is removed; its runs stay")
    return 0


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _measured(store: Store, name: str, insecure: bool) -> bool:
    """Measure the roofline; False when it was interrupted."""
    from backbench.controller.cli.interrupts import interrupts
    from backbench.controller.cli.progress import shown
    from backbench.controller.operations.roofline import measure_roofline
    from backbench.controller.operations.stop import Stop

    stop = Stop()
    with interrupts(stop), shown() as observer:
        return measure_roofline(store, name, observer, stop, insecure=insecure) is not None


def _document(record: DeviceRecord, roofline: DeviceRoofline | None) -> dict[str, Any]:
    return {
        "schema": "backbench.device/1",
        "name": record.name,
        "address": record.address,
        "added_unix_ns": record.added_unix_ns,
        "tls": record.ca_file is not None or record.certificate_file is not None,
        "device": None if record.device is None else asdict(record.device),
        "roofline": None
        if roofline is None
        else {**asdict(roofline), "ridge_flop_per_byte": roofline.ridge_flop_per_byte},
    }


def _board(record: DeviceRecord) -> str:
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
    lines += ["", "Sensors"]
    for sensor in device.sensors:
        state = f"{sensor.unit}, {sensor.source}" if sensor.available else f"not readable: {sensor.reason}"
        lines.append(f"  {sensor.name}: {state}")
    return lines


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
