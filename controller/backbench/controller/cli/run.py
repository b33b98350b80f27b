"""`backbench run`: runs that were started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbench.controller.cli.options import Insecure, Json, RunId, Strict, open_store
from backbench.controller.cli.output import print_answer, print_json, print_line, print_note
from backbench.controller.cli.verdict import FAILED

if TYPE_CHECKING:
    from backbench.controller.operations.collect import Collected
    from backbench.controller.store import RunRecord, Store
    from backbench.domain.errors import BackbenchError

app = typer.Typer(help="Runs that were started, here and on the devices.")
Devices = Annotated[list[str] | None, typer.Option("--device", metavar="NAME", help="Ask this device; repeatable.")]
Everywhere = Annotated[bool, typer.Option("--all", help="Ask every device.")]


@app.command("list")
def list_runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many.")] = 50,
    devices: Devices = None,
    everywhere: Everywhere = False,
    insecure: Insecure = False,
    json: Json = False,
) -> int:
    """Runs, newest first; the short ids can be given to other commands.

    With --device or --all the devices are asked, too: their runs are shown as they are there now, also those of others.
    """
    from backbench.controller.operations.device_runs import ask, named
    from backbench.controller.report.run_list import hints, run_list_document, run_rows, run_table

    store = open_store(context)
    names = named(store, devices or (), everywhere)
    answers = ask(store, names, insecure)
    records = [record for name in names for record in store.runs(limit, name)] if devices else store.runs(limit)
    rows = run_rows(records, answers, limit)
    status = _told([(answer.name, answer.error) for answer in answers], asked_for=not everywhere)
    if json:
        print_json(run_list_document(rows, answers))
    elif rows:
        print_answer(run_table(rows, asked=bool(names)))
        for line in hints(rows):
            print_line(line)
    else:
        print_line("No runs yet: backbench demo, or backbench profile MODEL --device NAME")
    return status


@app.command("collect")
def collect_runs(
    context: typer.Context,
    devices: Devices = None,
    everywhere: Everywhere = False,
    everyone: Annotated[bool, typer.Option("--everyone", help="Runs that others submitted, too.")] = False,
    insecure: Insecure = False,
    json: Json = False,
) -> int:
    """Fetch every finished run that a device has and this store has not, and tell the device that it is here.

    Runs that failed, were cancelled or interrupted are fetched with what they measured. Fetching again changes nothing.
    """
    from backbench.controller.cli.progress import shown
    from backbench.controller.operations.collect import collect
    from backbench.controller.operations.device_runs import named
    from backbench.controller.report.run_list import collected_document, collected_table
    from backbench.domain.errors import InvalidArgument

    store = open_store(context)
    names = named(store, devices or (), everywhere)
    if not names and not everywhere:
        raise InvalidArgument("no device is named; give --device NAME, or --all")
    with shown() as observer:
        collected = collect(store, names, observer, everyone=everyone, insecure=insecure)
    status = _told([(each.device, each.error) for each in collected], asked_for=not everywhere)
    if any(each.left_out for each in collected):
        status = FAILED
    if json:
        print_json(collected_document(collected))
        return status
    if any(each.records for each in collected):
        print_answer(collected_table(collected))
    for each in collected:
        if each.error is None:
            print_line(_collected_line(each))
    return status


@app.command("show")
def show(context: typer.Context, run: RunId, json: Json = False, strict: Strict = False) -> int:
    """One run's result, judged again by its exit status."""
    from backbench.controller.cli.runs import documents_of, print_runs
    from backbench.controller.cli.verdict import status_of

    documents = documents_of([open_store(context).run(run)])
    print_runs(documents, json=json, several=False)
    return status_of(documents, strict)


@app.command("follow")
def follow(
    context: typer.Context,
    run: RunId,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where it is, for a run that another controller submitted.")
    ] = None,
    insecure: Insecure = False,
    strict: Strict = False,
    json: Json = False,
) -> int:
    """Go on with a run whose controller was stopped or cut off, to its end. An interrupt leaves the run alone.

    What was missed is replayed first; then it goes on live.
    """
    from backbench.controller.cli.runs import documents_of, print_runs
    from backbench.controller.cli.verdict import status_of

    store = open_store(context)
    record = store.run(run) if device is None else _taken_in(store, run, device, insecure)
    if record.document is None:
        record = _followed(store, record, insecure)
    documents = documents_of([record])
    print_runs(documents, json=json, several=False)
    return status_of(documents, strict)


@app.command("cancel")
def cancel(
    context: typer.Context,
    run: RunId,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where it is, for a run that another controller submitted.")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="End it in this store alone: its device is gone, or was set up anew.")
    ] = False,
    insecure: Insecure = False,
) -> int:
    """End a run on its device; what it measured until then is kept."""
    from backbench.controller.operations.device_runs import find_run
    from backbench.controller.operations.devices import client_of
    from backbench.controller.operations.follow import end_here
    from backbench.domain.errors import InvalidArgument
    from backbench.domain.run import RunState

    store = open_store(context)
    if device is not None:
        if here:
            raise InvalidArgument("--device and --here: give one of them")
        with client_of(store, store.device(device), insecure) as client:
            state = client.cancel_run(find_run(client, run).spec.run_id).state
        print_line(f"run {run} is {state.value}")
        return 0
    record = store.run(run)
    if record.document is not None:
        print_line(f"run {record.run_id} has ended already: it is {record.state.value}")
        return 0
    if here:
        end_here(store, record.run_id, RunState.CANCELLED, "it was ended here, without its device")
        print_line(
            f"run {record.run_id} is ended here; what was fetched of it: backbench run show {record.run_id[-8:]}"
        )
        return 0
    with client_of(store, store.device(record.device_name), insecure) as client:
        state = client.cancel_run(record.run_id).state
    print_line(f"run {record.run_id} is {state.value}; what it measured: backbench run follow {record.run_id[-8:]}")
    return 0


@app.command("export")
def export(
    context: typer.Context,
    run: RunId,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A .csv, .parquet or .jsonl file.")],
) -> int:
    """Write every frame of a run to a file."""
    store = open_store(context)
    record = store.run(run)
    store.export_frames(record.run_id, to)
    print_line(f"frames of run {record.run_id} are in {to}")
    return 0


def _told(errors: Iterable[tuple[str, BackbenchError | None]], *, asked_for: bool) -> int:
    """Say which devices could not be asked; the exit status, which is bad where they were named."""
    status = 0
    for name, error in errors:
        if error is not None:
            print_note(f"{name}: {error.message}")
            status = max(status, error.exit_status) if asked_for else 0
    return status


def _collected_line(each: Collected) -> str:
    parts = [f"{len(each.records)} fetched" if each.records else "nothing new"]
    if each.going_on:
        parts.append(f"{each.going_on} not finished")
    if each.left_out:
        parts.append(f"{each.left_out} left out")
    if each.of_others:
        parts.append(f"{each.of_others} of others left there (--everyone)")
    return f"{each.device}: {', '.join(parts)}"


def _taken_in(store: Store, run: str, device: str, insecure: bool) -> RunRecord:
    """The run of this store, or else the device's, taken into it."""
    from backbench.controller.operations.device_runs import find_run, take_in
    from backbench.controller.operations.devices import client_of, contact
    from backbench.domain.errors import RunNotFound

    with contextlib.suppress(RunNotFound):
        return store.run(run)
    known = store.device(device)
    with client_of(store, known, insecure) as client:
        return take_in(store, device, contact(store, known, client), find_run(client, run))


def _followed(store: Store, record: RunRecord, insecure: bool) -> RunRecord:
    from backbench.controller.cli.progress import shown
    from backbench.controller.operations.devices import client_of
    from backbench.controller.operations.follow import follow as perform

    with client_of(store, store.device(record.device_name), insecure) as client, shown() as observer:
        observer.started(record.spec, 1, 1)
        try:
            return perform(store, client, record.run_id, observer.happened, observer.cut)
        except KeyboardInterrupt:
            observer.note(f"the run goes on on the device: backbench run follow {record.run_id[-8:]}")
            raise
