"""An engine on disk: a folder with the plan, which `trtexec --loadEngine` takes, and what is known of its build."""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Mapping
from pathlib import Path

from backbench.agent.backends.base import WorkerFailure
from backbench.domain.run import FailureReason

_PLAN, _FACTS = "model.plan", "facts.json"


def write_plan(folder: Path, plan: memoryview, facts: Mapping[str, str]) -> None:
    """Make the folder. Raises WorkerFailure when there is no room."""
    try:
        folder.mkdir()
        (folder / _FACTS).write_text(json.dumps(dict(facts), indent=1), encoding="utf-8")
        with (folder / _PLAN).open("wb") as file:
            file.write(plan)
    except OSError as error:
        raise WorkerFailure(
            FailureReason.DISK_FULL, f"cannot write the engine ({error.strerror}); free some room on the device"
        ) from error


def read_facts(folder: Path) -> dict[str, str]:
    """What was known when it was built. Raises WorkerFailure when it cannot be read."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in facts.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise _unreadable(error) from error


def read_plan(folder: Path) -> mmap.mmap:
    """The plan, mapped: its pages are the file's own and count as nobody's memory once it is closed."""
    try:
        with (folder / _PLAN).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise _unreadable(error) from error


def forget_plan(folder: Path) -> None:
    """Remove a plan that is of no use here, so that the next run builds it again."""
    with contextlib.suppress(OSError):
        (folder / _PLAN).unlink()


def _unreadable(error: Exception) -> WorkerFailure:
    words = getattr(error, "strerror", None) or "it is damaged"
    return WorkerFailure(
        FailureReason.BACKEND_UNAVAILABLE, f"the built engine cannot be read: {words}; run it again to rebuild it"
    )
