"""Results are kept until they are collected, and go in the order in which they ended."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backbench.agent.registry import Registry
from backbench.agent.reserve import Reserve
from backbench.agent.retention import Retention
from backbench.domain.errors import DiskFull, ResultsNotCollected, RunNotFound, StoreUnusable
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, Run, RunSpec, RunState


@dataclass
class Disk:
    """Runs of 100 bytes each, room for three of them, and as much free as is said."""

    folder: Path
    free_bytes: int = 1000
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = Registry(self.folder / "agent.sqlite")
        self.retention = self.open()

    def open(self) -> Retention:
        return Retention(self.folder / "runs", self.registry, 300, 50, lambda _: self.free_bytes)

    def run(self, state: RunState = RunState.DONE, collected: bool = False) -> str:
        run_id = new_run_id()
        spec = RunSpec(run_id, ModelRef("m", "a" * 64, "file"), 8, 8)
        self.registry.add(Run(spec, RunState.QUEUED, len(self.ids)))
        (self.folder / "runs" / run_id).mkdir()
        (self.folder / "runs" / run_id / "events-000000000001.seg").write_bytes(bytes(100))
        self.retention.begin(run_id)
        if state.ended:
            self.registry.finish(run_id, state, None, 5)
            self.retention.end(run_id)
        if collected:
            self.registry.acknowledge(run_id, 5)
        self.ids.append(run_id)
        return run_id

    def left(self) -> list[int]:
        kept = [each for each in self.ids if (self.folder / "runs" / each).exists()]
        assert {run.spec.run_id for run in self.registry.list()} == set(kept)
        return [self.ids.index(each) for each in kept]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.registry.close()


def test_below_the_quota_nothing_goes(disk: Disk) -> None:
    disk.run(collected=True)
    disk.run(collected=True)
    disk.retention.check()
    assert disk.left() == [0, 1]


def test_the_collected_runs_that_ended_first_go_first(disk: Disk) -> None:
    disk.run()
    disk.run(collected=True)
    disk.run(RunState.FAILED, collected=True)
    disk.run(RunState.RUNNING)
    disk.run(collected=True)
    disk.retention.check()
    assert disk.left() == [0, 3]


def test_uncollected_results_are_never_dropped_and_the_refusal_says_what_to_do(disk: Disk) -> None:
    disk.run()
    disk.run(RunState.INTERRUPTED)
    disk.run(RunState.CANCELLED)
    with pytest.raises(ResultsNotCollected, match=r"3 runs .* `backbench run collect --device NAME`") as caught:
        disk.retention.check()
    assert caught.value.details == {"uncollected_runs": "3", "uncollected_bytes": "300"}
    assert disk.left() == [0, 1, 2]
    disk.registry.acknowledge(disk.ids[1], 5)
    disk.retention.check()
    assert disk.left() == [0, 2]


def test_a_growing_run_makes_collected_ones_go_but_goes_on_itself(disk: Disk) -> None:
    going = disk.run(RunState.RUNNING)
    disk.run(collected=True)
    disk.run()
    (disk.folder / "runs" / going / "events-000000000009.seg").write_bytes(bytes(500))
    disk.retention.make_room()
    assert disk.left() == [0, 2]


def test_a_disk_that_others_fill_makes_collected_runs_go_too(disk: Disk) -> None:
    disk.run(collected=True)
    disk.run()
    disk.free_bytes = 99
    with pytest.raises(DiskFull, match=r"1 run with .* not collected"):
        disk.retention.check()
    assert disk.left() == [1]
    assert not disk.retention.too_full()
    disk.free_bytes = 49
    assert disk.retention.too_full()


def test_what_there_is_is_seen_after_a_restart_and_a_deletion_that_was_cut_is_completed(disk: Disk) -> None:
    disk.run()
    disk.run(collected=True)
    gone = disk.run()
    (disk.folder / "runs" / gone).rename(disk.folder / "runs" / f"deleted-{gone}")
    disk.retention = disk.open()
    disk.retention.sweep()
    with pytest.raises(RunNotFound):
        disk.registry.get(gone)
    assert disk.left() == [0, 1]
    use = disk.retention.use()
    assert (use.used_bytes, use.quota_bytes, use.uncollected_runs, use.uncollected_bytes) == (200, 300, 1, 100)


def test_a_run_that_the_disk_does_not_let_go_is_kept_and_the_refusal_says_so(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = disk.run()

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        with pytest.raises(StoreUnusable, match=f"run {run_id} cannot be deleted: Read-only file system"):
            disk.retention.delete(run_id)
    assert disk.left() == [0]
    disk.retention.delete(run_id)
    assert disk.left() == []


def test_deleting_twice_is_harmless(disk: Disk) -> None:
    run_id = disk.run()
    disk.retention.delete(run_id)
    disk.retention.delete(run_id)
    assert disk.left() == []
    assert disk.retention.use().used_bytes == 0


def test_a_reserve_takes_its_room_and_gives_it_back(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", 5000)
    assert reserve.fill()
    assert reserve.fill()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 5000
    assert reserve.release()
    assert not reserve.release()
    assert not Reserve(tmp_path / "nowhere" / "reserve").fill()
