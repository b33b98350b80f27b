"""`backbench pki`: the certificates of the fleet: who may do what, until when."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backbench.controller.cli.options import Json, open_store
from backbench.controller.cli.output import print_answer, print_json, print_line, print_note
from backbench.controller.cli.verdict import FAILED, FINE
from backbench.domain.security import ISSUED_ROLES, Role

if TYPE_CHECKING:
    from backbench.controller.operations.certificates import Failures
    from backbench.controller.security import Authority, Identity, Pki

app = typer.Typer(help="The fleet's certificates: who may do what, until when. `pair` makes what it needs by itself.")
RoleName = Enum("RoleName", {role.name: role.value for role in ISSUED_ROLES})  # type: ignore[misc]


@app.command("init")
def init(
    context: typer.Context,
    name: Annotated[str, typer.Option(metavar="NAME", help="The fleet's name; by default one of this host.")] = "",
) -> int:
    """Make the fleet's authority and this controller's own identity, once."""
    pki = _pki(context)
    authority = pki.init(name)
    print_line(f"fleet {authority.fleet_id}, {authority.name}; its keys are in {pki.path}: keep a copy, in safety")
    return 0


@app.command("list")
def list_certificates(context: typer.Context, json: Json = False) -> int:
    """Who this controller is, and everything that was issued here."""
    from backbench.controller.report.certificates import certificate_table

    pki = _pki(context)
    identity, authority = pki.identity(), pki.authority()
    document = _document(identity, authority)
    if json:
        print_json(document)
    elif identity is None:
        print_line("No fleet yet: backbench pair HOST makes one, and backbench pki import FILE joins one")
    else:
        print_line(_words(identity))
        if authority is not None:
            print_answer("", certificate_table(document["issued"]))
    return 0


@app.command("issue")
def issue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose identity it is, e.g. ana@laptop.")],
    role: Annotated[
        RoleName,
        typer.Option(help="viewer reads; operator also runs models and ends its own runs; admin everything."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A new file with key and certificate: a secret.")],
    days: Annotated[int, typer.Option(metavar="N", min=1, max=365, help="How long it is good.")] = 30,
) -> int:
    """Make an identity for another controller, which takes it with `backbench pki import`."""
    from backbench.controller.report.certificates import day

    identity = _pki(context).issue(name, Role(role.value), timedelta(days=days), out)
    print_line(
        f"{out}: {identity.name}, {identity.role.value}, until {day(identity.not_after_unix_s)}; there: backbench pki"
        f" import {out.name}, then delete the file"
    )
    return 0


@app.command("import")
def import_identity(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `backbench pki issue`.")],
) -> int:
    """Become who a file of `backbench pki issue` says."""
    identity = _pki(context).take(file)
    print_line(_words(identity))
    print_line(f"Delete {file}, and name the fleet's devices: backbench device add NAME HOST")
    return 0


@app.command("revoke")
def revoke(
    context: typer.Context,
    holder: Annotated[str, typer.Argument(metavar="NAME|SERIAL", help="As `backbench pki list` shows it.")],
) -> int:
    """Take certificates back; every device that can be reached shuts them out at once."""
    from backbench.controller.operations.certificates import revoke as perform

    revoked, failures = perform(open_store(context), holder)
    for each in revoked:
        print_line(f"revoked: {each.name}, {each.kind.value}, {each.serial}")
    for name, error in failures.items():
        print_note(f"{name} does not know it yet and is told at the next contact: {error.message}")
    return 0


@app.command("renew")
def renew(
    context: typer.Context,
    devices: Annotated[
        list[str] | None, typer.Argument(metavar="DEVICE...", help="By default all, and this controller.")
    ] = None,
) -> int:
    """Give devices another certificate now. It happens by itself at a contact in the last third of its 90 days."""
    from backbench.controller.operations.certificates import renew as perform

    renewed, failures = perform(open_store(context), devices or ())
    for name in renewed:
        print_line(f"renewed: {name}")
    return _failed(failures)


def _words(identity: Identity) -> str:
    from backbench.controller.report.certificates import day

    until = day(identity.not_after_unix_s)
    return f"This controller is {identity.name}, {identity.role.value} of fleet {identity.fleet_id} until {until}"


def _failed(failures: Failures) -> int:
    for name, error in failures.items():
        print_note(f"error: {name}: {error.message}")
    return FAILED if failures else FINE


def _pki(context: typer.Context) -> Pki:
    from backbench.controller.security import Pki

    return Pki(open_store(context).root)


def _document(identity: Identity | None, authority: Authority | None) -> dict[str, Any]:
    return {
        "schema": "backbench.pki/1",
        "fleet_id": None if identity is None else identity.fleet_id,
        "authority": None if authority is None else authority.name,
        "revocation_number": None if identity is None else identity.revocation_number,
        "identity": None if identity is None else {
            "name": identity.name,
            "role": identity.role.value,
            "serial": identity.serial,
            "not_after_unix_s": identity.not_after_unix_s,
        },
        "issued": [] if authority is None else _issued(authority),
    }  # fmt: skip


def _issued(authority: Authority) -> list[dict[str, Any]]:
    _, revoked = authority.revoked()
    return [
        {
            "kind": each.kind.value,
            "name": each.name,
            "role": None if each.role is None else each.role.value,
            "serial": each.serial,
            "not_after_unix_s": each.not_after_unix_s,
            "device_id": each.device_id or None,
            "state": "revoked" if int(each.serial, 16) in revoked else "expired" if each.expired else "valid",
        }
        for each in authority.issued()
    ]
