"""`backbench demo`: everything once, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backbench.controller.cli.options import open_store


def demo(
    context: typer.Context,
    frames: Annotated[int, typer.Option(metavar="N", help="Timed frames for each backbone.")] = 600,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the agent's data here instead of removing it.")
    ] = None,
) -> int:
    """Start an agent on this machine, measure two backbones on photographs, and judge them.

    Ends with 0 when that worked, whatever the verdicts are.
    """
    from backbench.controller.cli.interrupts import interrupts
    from backbench.controller.cli.output import print_line
    from backbench.controller.cli.progress import shown
    from backbench.controller.cli.runs import documents_of, print_runs
    from backbench.controller.cli.verdict import FAILED, INTERRUPTED
    from backbench.controller.operations.demo import demo as perform
    from backbench.controller.operations.stop import Stop

    store = open_store(context)
    stop = Stop()
    with interrupts(stop), shown() as observer:
        outcome = perform(store, observer, stop, frames, keep)
    documents = documents_of(outcome.records)
    print_runs(documents, json=False, several=True)
    if stop.requested:
        return INTERRUPTED
    print_line("")
    print_line("Every frame is kept:")
    for record in outcome.records:
        print_line(f"  {store.run_folder(record.run_id)}")
    print_line("The demo worked; whether the budgets hold on this machine does not change its exit status.")
    print_line("")
    first, second = (record.run_id[-8:] for record in outcome.records[:2])
    print_line("Next:")
    print_line(f"  backbench compare {first} {second}")
    print_line(f"  backbench run export {first} --to frames.csv")
    print_line("  backbench-agent serve                     # on your device")
    print_line("  backbench device add DEVICE HOST:PORT     # on this machine")
    print_line(f"  {outcome.command}")
    return 0 if all(record.state.value == "done" for record in outcome.records) else FAILED
