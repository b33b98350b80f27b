"""Everything once, on this machine: an agent, two backbones, photographs, budgets, verdicts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from backbench.controller.operations.devices import add_device
from backbench.controller.operations.local_agent import local_agent
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import ProfileRequest, plan_profile
from backbench.controller.operations.profile import profile
from backbench.controller.operations.stop import Stop
from backbench.controller.store import RunRecord, Store

MODELS = ("mobilenetv3_large_100", "resnet50")
BUDGETS = ("p99<=30ms", "memory<=256MB")
SIZE = "224"


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo did: the command that does the same, and the runs."""

    command: str
    records: list[RunRecord]


def demo(store: Store, observer: Observer, stop: Stop, frames: int, keep: Path | None = None) -> Demo:
    """Profile two backbones on an agent that lives as long as this call; `keep` keeps its data folder."""
    with _data_dir(keep) as data_dir, as_file(files("backbench.models").joinpath("photos")) as photos:
        name = _free_name(store)
        request = ProfileRequest(MODELS, name, size=SIZE, frames=frames, inputs=photos, budgets=BUDGETS)
        plan = plan_profile(request)
        observer.note("starting an agent on this machine")
        with local_agent(data_dir) as address:
            add_device(store, name, address)
            try:
                return Demo(_command(request), profile(store, plan, observer, stop))
            finally:
                store.remove_device(name)


@contextmanager
def _data_dir(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="backbench-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _free_name(store: Store) -> str:
    taken = {record.name for record in store.devices()}
    return next(name for name in ("demo", *(f"demo-{number}" for number in range(2, 10_000))) if name not in taken)


def _command(request: ProfileRequest) -> str:
    budgets = " ".join(f'--budget "{text}"' for text in request.budgets)
    return f"backbench profile {' '.join(request.models)} --device DEVICE --size {request.size} {budgets}"
