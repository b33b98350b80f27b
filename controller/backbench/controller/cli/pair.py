"""`backbench pair`: a device and this controller come to know each other."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from backbench.controller.cli.options import open_store
from backbench.controller.cli.output import print_line
from backbench.domain.errors import InvalidArgument


def pair(
    context: typer.Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="HOST or HOST:PORT where its agent listens.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The device's name from now on; its host's name by default.")
    ] = None,
    code: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="The pairing code that the agent printed; - reads it from standard input. Asked for by default.",
        ),
    ] = None,
) -> int:
    """Pair with the agent on a device, once, by the code that it prints: both prove who they are from then on."""
    from backbench.controller.cli.device import board
    from backbench.controller.operations.pairing import pair as perform

    store = open_store(context)
    record = perform(store, address, _code(code), name or "")
    print_line(f"{record.name} is paired at {record.address}: {board(record)}")
    print_line(f"Profile on it: backbench profile MODEL --device {record.name}")
    return 0


def _code(given: str | None) -> str:
    if given is None and sys.stdin.isatty():
        return str(typer.prompt("Pairing code (backbench-agent pair prints one)", err=True))
    if given is None:
        raise InvalidArgument("no pairing code; give --code CODE, or --code - and the code on standard input")
    return sys.stdin.readline() if given == "-" else given
