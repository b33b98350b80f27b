"""The commands of `backbench` and its options for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backbench.controller import __version__
from backbench.controller.cli import (
    compare,
    demo,
    device,
    export,
    inspect,
    layers,
    models,
    noise,
    pair,
    pki,
    profile,
    push,
    run,
    watch,
)

app = typer.Typer(
    name="backbench",
    help="Does this vision backbone fit its latency, memory and power budget on the device it will ship on?",
    epilog=(
        "Exit status: 0 fine; 1 the answer is no; 2 bad input; 3 a device or a service failed; "
        "4 nothing could be judged (--strict); 130 interrupted."
    ),
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(demo.demo)
app.add_typer(device.app, name="device")
app.command("pair")(pair.pair)
app.add_typer(pki.app, name="pki")
app.command("models")(models.models)
app.command("export")(export.export)
app.command("inspect")(inspect.inspect)
app.command("push")(push.push)
app.command("profile")(profile.profile)
app.add_typer(run.app, name="run")
app.command("watch")(watch.watch)
app.command("compare")(compare.compare)
app.command("layers")(layers.layers)
app.command("noise")(noise.noise)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"backbench {__version__}")
        raise typer.Exit


@app.callback()
def backbench(
    context: typer.Context,
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="DIR", envvar="BACKBENCH_HOME", help="Where runs and devices are kept."),
    ] = None,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Does this vision backbone fit its latency, memory and power budget on the device it will ship on?"""
    context.obj = store
