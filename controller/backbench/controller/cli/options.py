"""Options that several commands have, and what they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from backbench.controller.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document; everything else goes to stderr.")]
DeviceName = Annotated[str, typer.Option("--device", metavar="NAME", help="The device (see backbench device list).")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, or a part of it that no other run has.")]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure-plaintext",
        help="Talk in plain text to a device that is not this machine: anyone on the network can listen.",
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Fail, naming who it is, when somebody else uses the device.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 4 when nothing could be judged.")]


def open_store(context: typer.Context) -> Store:
    """The store that the command line names, or the user's own; closed when the command ends."""
    from backbench.controller.store import Store, default_root

    root = context.find_root().obj
    store = Store.open(default_root() if root is None else root)
    context.call_on_close(store.close)
    return store
