"""`backbench run`: runs that were started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbench.controller.cli.options import Insecure, Json, RunId, Strict, open_store
from backbench.controller.cli.output import print_answer, print_json, print_line

if TYPE_CHECKING:
    from backbench.controller.store import RunRecord, Store

app = typer.Typer(help="Runs that were started.")


@app.command("list")
def list_runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many.")] = 50,
    json: Json = False,
) -> int:
    """Runs, newest first; the short ids can be given to other commands."""
    from backbench.controller.cli.runs import list_document
    from backbench.controller.report.text import run_list

    records = open_store(context).runs(limit)
    if json:
        print_json(list_document(records))
    elif records:
        print_answer(run_list(records))
    else:
        print_line("No runs yet: backbench demo, or backbench profile MODEL --device NAME")
    return 0


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
    context: typer.Context, run: RunId, insecure: Insecure = False, strict: Strict = False, json: Json = False
) -> int:
    """Go on with a run whose controller was stopped or cut off, to its end. An interrupt leaves the run alone."""
    from backbench.controller.cli.runs import documents_of, print_runs
    from backbench.controller.cli.verdict import status_of

    store = open_store(context)
    record = store.run(run)
    if record.document is None:
        record = _followed(store, record, insecure)
    documents = documents_of([record])
    print_runs(documents, json=json, several=False)
    return status_of(documents, strict)


@app.command("cancel")
def cancel(context: typer.Context, run: RunId, insecure: Insecure = False) -> int:
    """End a run on its device; what it measured until then is kept."""
    from backbench.controller.operations.devices import client_of

    store = open_store(context)
    record = store.run(run)
    if record.document is not None:
        print_line(f"run {record.run_id} has ended already: it is {record.state.value}")
        return 0
    with client_of(store.device(record.device_name), insecure) as client:
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


def _followed(store: Store, record: RunRecord, insecure: bool) -> RunRecord:
    from backbench.controller.cli.progress import shown
    from backbench.controller.operations.devices import client_of
    from backbench.controller.operations.follow import follow as perform

    with client_of(store.device(record.device_name), insecure) as client, shown() as observer:
        observer.started(record.spec, 1, 1)
        try:
            return perform(store, client, record.run_id, observer.happened, observer.cut)
        except KeyboardInterrupt:
            observer.note(f"the run goes on on the device: backbench run follow {record.run_id[-8:]}")
            raise
