"""The registry: what it keeps, what it does with older, newer, damaged and full files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbench.agent.registry import Registry
from backbench.domain.errors import DiskFull, RunNotFound, StoreUnusable
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import FailureReason, ModelRef, Owner, Run, RunFailure, RunSpec, RunState
from backbench.wire.run import spec_to_bytes


def run(owner: Owner | None = None) -> Run:
    return Run(RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8), RunState.QUEUED, 1, owner=owner)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    made = Registry(tmp_path / "agent.sqlite")
    yield made
    made.close()


def limit_pages(registry: Registry) -> None:
    """No page more than there are: what SQLite says of a full disk, without one."""
    (pages,) = registry._db.execute("PRAGMA page_count").fetchone()
    registry._db.execute(f"PRAGMA max_page_count = {pages}")


def fill(registry: Registry) -> None:
    limit_pages(registry)
    with pytest.raises(DiskFull, match="disk is full"):
        while True:
            registry.put_setting(new_run_id(), "x" * 500)


def test_a_run_is_kept_with_its_owner(registry: Registry) -> None:
    mine, nobodys = run(Owner("ana", "lab")), run()
    registry.add(mine)
    registry.add(nobodys)
    assert registry.get(mine.spec.run_id) == mine
    assert registry.get(nobodys.spec.run_id).owner == Owner("local")
    assert [each.spec.run_id for each in registry.list()] == [nobodys.spec.run_id, mine.spec.run_id]
    registry.delete(mine.spec.run_id)
    with pytest.raises(RunNotFound, match="backbench run list"):
        registry.get(mine.spec.run_id)


def test_runs_are_given_page_by_page_whatever_the_clock_said(registry: Registry) -> None:
    runs = [run() for _ in range(5)]
    for each in runs:
        registry.add(each)
    places = [place for place, _ in registry.page(None)]
    assert [each for _, each in registry.page(places[1])] == [
        registry.get(each.spec.run_id) for each in (runs[2], runs[1], runs[0])
    ]


def test_ended_runs_are_told_apart_by_whether_they_were_collected(registry: Registry) -> None:
    queued, first, second, third = (run() for _ in range(4))
    for each in (queued, third, first, second):
        registry.add(each)
    for each in (first, second, third):
        registry.finish(each.spec.run_id, RunState.DONE, None, 10)
    registry.acknowledge(second.spec.run_id, 9)
    for each in (first, third):
        registry.acknowledge(each.spec.run_id, 10)
        registry.acknowledge(each.spec.run_id, 3)
    assert registry.ended(collected=True) == (first.spec.run_id, third.spec.run_id)
    assert registry.ended(collected=False) == (second.spec.run_id,)
    assert registry.get(first.spec.run_id).collected
    assert not registry.get(second.spec.run_id).collected


def test_the_file_of_an_older_agent_is_brought_up_to_date(tmp_path: Path) -> None:
    spec = run().spec
    db = sqlite3.connect(tmp_path / "agent.sqlite")
    db.executescript(
        "CREATE TABLE run (run_id TEXT PRIMARY KEY, spec BLOB NOT NULL, state TEXT NOT NULL,"
        " created_unix_ns INTEGER NOT NULL, started_unix_ns INTEGER, finished_unix_ns INTEGER, failure BLOB,"
        " last_sequence INTEGER NOT NULL DEFAULT 0, acknowledged_sequence INTEGER NOT NULL DEFAULT 0) STRICT;"
        "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT; PRAGMA user_version = 1;"
    )
    db.execute(
        "INSERT INTO run (run_id, spec, state, created_unix_ns) VALUES (?, ?, 'done', 7)",
        (spec.run_id, spec_to_bytes(spec)),
    )
    db.commit()
    db.close()
    registry = Registry(tmp_path / "agent.sqlite")
    assert registry.get(spec.run_id) == Run(spec, RunState.DONE, 7, owner=Owner("local"))
    registry.close()


def test_the_file_of_a_newer_agent_is_left_alone(tmp_path: Path) -> None:
    Registry(tmp_path / "agent.sqlite").close()
    db = sqlite3.connect(tmp_path / "agent.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreUnusable, match="newer agent"):
        Registry(tmp_path / "agent.sqlite")


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.sqlite").write_bytes(content)
    registry = Registry(tmp_path / "agent.sqlite")
    assert registry.list() == ()
    registry.add(run())
    registry.close()
    (aside,) = tmp_path.glob("agent.sqlite.damaged-*")
    assert aside.read_bytes() == content


def test_damage_in_the_middle_of_a_file_is_found_at_the_start(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "agent.sqlite")
    for _ in range(200):
        registry.add(run())
    registry.close()
    data = bytearray((tmp_path / "agent.sqlite").read_bytes())
    data[8192:16384] = bytes(8192)
    (tmp_path / "agent.sqlite").write_bytes(data)
    registry = Registry(tmp_path / "agent.sqlite")
    assert registry.list() == ()
    registry.close()


def test_a_run_that_another_version_wrote_is_left_out_of_the_list(registry: Registry) -> None:
    strange, fine = run(), run()
    registry.add(strange)
    registry.add(fine)
    registry._db.execute("UPDATE run SET state = 'dreaming' WHERE run_id = ?", (strange.spec.run_id,))
    assert [each.spec.run_id for each in registry.list()] == [fine.spec.run_id]


def test_a_full_disk_is_one_line_and_nothing_is_half_written(registry: Registry) -> None:
    fill(registry)
    with pytest.raises(DiskFull, match="backbench run collect --device NAME"):
        for _ in range(100):
            registry.add(run())
    assert registry._db.execute("PRAGMA quick_check").fetchone() == ("ok",)


def test_a_reserve_is_given_up_for_what_must_be_written(registry: Registry) -> None:
    assert registry.reserve.fill()
    fill(registry)
    assert not registry.reserve.release()


def test_the_end_of_a_run_is_known_though_the_disk_does_not_take_it_and_written_when_it_does(
    registry: Registry, tmp_path: Path
) -> None:
    going = run()
    registry.add(going)
    blocking = sqlite3.connect(tmp_path / "agent.sqlite", isolation_level=None)
    registry._db.execute("PRAGMA busy_timeout = 0")
    blocking.execute("BEGIN IMMEDIATE")
    failure = RunFailure(FailureReason.DISK_FULL, "full")
    registry.finish(going.spec.run_id, RunState.FAILED, failure, 12)
    known = registry.get(going.spec.run_id)
    assert (known.state, known.failure, known.last_sequence) == (RunState.FAILED, failure, 12)
    blocking.execute("COMMIT")
    blocking.close()
    registry.settle()
    registry.close()
    again = Registry(tmp_path / "agent.sqlite")
    assert again.get(going.spec.run_id) == known
    again.close()
