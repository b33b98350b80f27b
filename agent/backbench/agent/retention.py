"""Results are kept until they are collected: what room they take, which go first, when no more are taken."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backbench.agent.registry import Registry
from backbench.domain.errors import DiskFull, ResultsNotCollected, StoreUnusable
from backbench.wire.records import sync_folder

FLOOR_BYTES = 16 << 20
"""This much of the disk is left free by a run; one that begins finds twice as much."""
_TRASH = "deleted-"


@dataclass(frozen=True, slots=True)
class JournalUse:
    """What the journals take, and how much of that no controller has collected yet."""

    used_bytes: int
    quota_bytes: int
    uncollected_runs: int
    uncollected_bytes: int


class Retention:
    """The folders in `folder`, one a run."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        quota_bytes: int,
        floor_bytes: int = FLOOR_BYTES,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._folder = folder
        self._registry = registry
        self._quota_bytes = quota_bytes
        self._floor_bytes = floor_bytes
        self._free_bytes = free_bytes
        self._growing: set[str] = set()
        self._ended: dict[str, int] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, run_id: str) -> Path:
        """The folder of a run."""
        return self._folder / run_id

    def sweep(self) -> None:
        """After a start: complete what was being deleted, and see what there is."""
        for path in self._folder.glob(f"{_TRASH}*"):
            self._bury(path)
        for collected in (True, False):
            for run_id in self._registry.ended(collected):
                self.end(run_id)

    def begin(self, run_id: str) -> None:
        """Count a run whose journal grows."""
        self._growing.add(run_id)

    def end(self, run_id: str) -> None:
        """Count a run whose journal grows no more."""
        self._growing.discard(run_id)
        self._ended[run_id] = _folder_bytes(self.path(run_id))

    def delete(self, run_id: str) -> None:
        """Remove a run and its journal: all of it or nothing, whatever happens meanwhile.

        Raises DiskFull, StoreUnusable.
        """
        trash = self._folder / f"{_TRASH}{run_id}"
        try:
            if self.path(run_id).exists():
                self.path(run_id).replace(trash)
                sync_folder(self._folder)
        except OSError as error:
            raise StoreUnusable(
                f"run {run_id} cannot be deleted: {error.strerror}; look at the device's disk"
            ) from error
        self._bury(trash)
        self._ended.pop(run_id, None)
        self._growing.discard(run_id)

    def _bury(self, trash: Path) -> None:
        """Complete a deletion. Its room comes first: a full disk needs it to forget the run. The folder goes last."""
        for path in trash.glob("*"):
            with contextlib.suppress(OSError):
                path.unlink()
        self._registry.delete(trash.name.removeprefix(_TRASH))
        shutil.rmtree(trash, ignore_errors=True)

    def use(self) -> JournalUse:
        """How full it is."""
        waiting = self._registry.ended(collected=False)
        uncollected = sum(self._ended.get(run_id, 0) for run_id in waiting)
        return JournalUse(self._used_bytes(), self._quota_bytes, len(waiting), uncollected)

    def make_room(self) -> None:
        """Drop collected runs, those that ended first before the others, while there are too many."""
        if self._excess_bytes() <= 0:
            return
        for run_id in self._registry.ended(collected=True):
            self.delete(run_id)
            if self._excess_bytes() <= 0:
                return

    def check(self) -> None:
        """Make room for a new run. Raises ResultsNotCollected, DiskFull when there is none."""
        self.make_room()
        use = self.use()
        runs = "1 run" if use.uncollected_runs == 1 else f"{use.uncollected_runs} runs"
        uncollected = f"{runs} with {use.uncollected_bytes >> 20} MiB not collected"
        remedy = "fetch what is not with `backbench run collect --device NAME`"
        if use.used_bytes >= self._quota_bytes:
            raise ResultsNotCollected(
                f"the device keeps at most {self._quota_bytes >> 20} MiB of results and has {uncollected}; {remedy}",
                uncollected_runs=str(use.uncollected_runs),
                uncollected_bytes=str(use.uncollected_bytes),
            )
        if self._free_bytes(self._folder) < 2 * self._floor_bytes:
            raise DiskFull(
                f"the device's disk has less than {2 * self._floor_bytes >> 20} MiB free and {uncollected}; {remedy},"
                " or delete files on the device"
            )

    def too_full(self) -> bool:
        """Whether less of the disk is free than is to be left."""
        return self._free_bytes(self._folder) < self._floor_bytes

    def _excess_bytes(self) -> int:
        over = self._used_bytes() + 1 - self._quota_bytes
        return max(over, 2 * self._floor_bytes - self._free_bytes(self._folder))

    def _used_bytes(self) -> int:
        growing = sum(_folder_bytes(self.path(run_id)) for run_id in self._growing)
        return growing + sum(self._ended.values())


def _folder_bytes(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        return 0
