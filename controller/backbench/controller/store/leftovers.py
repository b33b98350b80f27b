"""What killed processes leave in a store, found again by its name or by the lock beside it, and removed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from backbench.controller.store.locks import take
from backbench.domain.identifiers import is_run_id

_ABANDONED_S = 24 * 3600


def tidy(root: Path, is_finished: Callable[[str], bool | None]) -> None:
    """Tidy up every run that nobody works on any more; `is_finished` is None for one that the store does not know."""
    for path in (root / "locks").glob("*.lock"):
        run_id = path.stem
        lock = take(path, patience_s=0) if is_run_id(run_id) else None
        if lock is None:
            continue
        try:
            tidy_run(root / "runs" / run_id, is_finished(run_id))
        finally:
            lock.release()


def tidy_run(folder: Path, finished: bool | None) -> None:
    """Remove what a run's folder holds too much of: everything where the run is unknown. Its lock must be held."""
    if finished is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
    if finished:
        (folder / "events.log").unlink(missing_ok=True)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove folders that somebody began to fill and has not touched for a day."""
    for part in folder.glob(pattern):
        if time.time() - part.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(part, ignore_errors=True)
