"""The runs that this agent knows, in SQLite: what was asked, where each stands, what was acknowledged."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbench.agent.reserve import Reserve
from backbench.domain.errors import DiskFull, JournalCorrupt, RunNotFound, StoreUnusable
from backbench.domain.run import Owner, Run, RunFailure, RunState
from backbench.wire.run import failure_from_bytes, failure_to_bytes, spec_from_bytes, spec_to_bytes

log = logging.getLogger(__name__)

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE run (
    run_id TEXT PRIMARY KEY,
    spec BLOB NOT NULL,
    state TEXT NOT NULL,
    created_unix_ns INTEGER NOT NULL,
    started_unix_ns INTEGER,
    finished_unix_ns INTEGER,
    failure BLOB,
    last_sequence INTEGER NOT NULL DEFAULT 0,
    acknowledged_sequence INTEGER NOT NULL DEFAULT 0,
    owner_name TEXT NOT NULL DEFAULT 'local',
    owner_fleet TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_FROM_VERSION_1 = """
ALTER TABLE run ADD COLUMN owner_name TEXT NOT NULL DEFAULT 'local';
ALTER TABLE run ADD COLUMN owner_fleet TEXT NOT NULL DEFAULT '';
"""
_COLUMNS = (
    "spec, state, created_unix_ns, started_unix_ns, finished_unix_ns, failure, last_sequence, acknowledged_sequence,"
    " owner_name, owner_fleet"
)


class Registry:
    """One SQLite file, used from one thread.

    A file that SQLite finds damaged is moved aside and a new one begun: runs are found again by what lies beside their
    journals. Where a write finds the disk full, `reserve` is given up for it. Every method raises DiskFull or
    StoreUnusable when the file cannot be read or written, but `finish` never does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.reserve = Reserve(path.with_name("reserve"))
        self._unwritten: dict[str, tuple[Any, ...]] = {}
        try:
            self._db = self._opened()
        except (sqlite3.Error, OSError) as error:
            raise StoreUnusable(f"{path} cannot be used: {error}; move it away or choose another --data-dir") from error

    def add(self, run: Run) -> None:
        """Keep a new run."""
        owner = run.owner or Owner("local")
        self._write(
            "INSERT INTO run (run_id, spec, state, created_unix_ns, owner_name, owner_fleet) VALUES (?, ?, ?, ?, ?, ?)",
            (
                run.spec.run_id,
                spec_to_bytes(run.spec),
                run.state.value,
                run.created_unix_ns,
                owner.name,
                owner.fleet_id,
            ),
        )

    def get(self, run_id: str) -> Run:
        """One run. Raises RunNotFound."""
        row = next(self._read(f"SELECT {_COLUMNS} FROM run WHERE run_id = ?", (run_id,)), None)  # noqa: S608
        if row is None:
            raise RunNotFound(f"this agent has no run {run_id[:64]}; see `backbench run list`", run_id=run_id[:64])
        return self._run(row)

    def list(self) -> tuple[Run, ...]:
        """Every run, newest first."""
        return tuple(run for _, run in self.page(None))

    def page(self, before: int | None) -> Iterator[tuple[int, Run]]:
        """Runs, newest first, each with its place in the order; only those before a place, where one is given."""
        statement = f"SELECT rowid, {_COLUMNS} FROM run WHERE rowid < ? ORDER BY rowid DESC"  # noqa: S608
        for place, *row in self._read(statement, (2**63 - 1 if before is None else before,)):
            try:
                yield place, self._run(tuple(row))
            except JournalCorrupt as error:
                log.warning("a run in %s is left out: %s", self._path, error)

    def ended(self, collected: bool) -> tuple[str, ...]:
        """The ids of ended runs that were collected to their end, or were not; what ended first comes first."""
        states = [state.value for state in RunState if state.ended]
        statement = (
            f"SELECT run_id FROM run WHERE state IN ({','.join('?' * len(states))})"  # noqa: S608
            " AND (acknowledged_sequence >= last_sequence) = ? ORDER BY finished_unix_ns, rowid"
        )
        return tuple(run_id for (run_id,) in self._read(statement, (*states, collected)))

    def counts(self) -> dict[str, int]:
        """How many runs there are, by the name of their state."""
        return dict(self._read("SELECT state, COUNT(*) FROM run GROUP BY state", ()))

    def set_state(self, run_id: str, state: RunState) -> None:
        """Move a run on; leaving the queue is when it starts."""
        self._write(
            "UPDATE run SET state = ?, started_unix_ns = coalesce(started_unix_ns, ?) WHERE run_id = ?",
            (state.value, None if state is RunState.QUEUED else time.time_ns(), run_id),
        )

    def finish(self, run_id: str, state: RunState, failure: RunFailure | None, last_sequence: int) -> None:
        """End a run. What the disk does not take now is kept in memory and written as soon as it does."""
        packed = None if failure is None else failure_to_bytes(failure)
        self._unwritten[run_id] = (state.value, packed, time.time_ns(), last_sequence)
        self.settle()

    def settle(self) -> None:
        """Write ends of runs that could not be written before, if the disk takes them now."""
        statement = "UPDATE run SET state = ?, failure = ?, finished_unix_ns = ?, last_sequence = ? WHERE run_id = ?"
        for run_id, values in list(self._unwritten.items()):
            try:
                self._write(statement, (*values, run_id))
            except (DiskFull, StoreUnusable) as error:
                log.warning("run %s has ended, which cannot be written down yet: %s", run_id, error)
                return
            del self._unwritten[run_id]

    def set_last_sequence(self, run_id: str, last_sequence: int) -> None:
        """Correct how many events an ended run has."""
        self._write("UPDATE run SET last_sequence = ? WHERE run_id = ?", (last_sequence, run_id))

    def acknowledge(self, run_id: str, sequence: int) -> None:
        """Keep how far a controller has stored the run; it never goes back."""
        self._write(
            "UPDATE run SET acknowledged_sequence = max(acknowledged_sequence, ?) WHERE run_id = ?", (sequence, run_id)
        )

    def delete(self, run_id: str) -> None:
        """Forget a run."""
        self._write("DELETE FROM run WHERE run_id = ?", (run_id,))
        self._unwritten.pop(run_id, None)

    def setting(self, name: str) -> str | None:
        """A kept value; None when there is none."""
        row = next(self._read("SELECT value FROM setting WHERE name = ?", (name,)), None)
        return None if row is None else str(row[0])

    def put_setting(self, name: str, value: str) -> None:
        """Keep a value."""
        self._write("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _opened(self) -> sqlite3.Connection:
        try:
            return _open(self._path)
        except sqlite3.OperationalError as error:
            if not _is_full(error) or not self.reserve.release():
                raise
        except sqlite3.DatabaseError as error:
            _move_aside(self._path, error)
        return _open(self._path)

    def _read(self, statement: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            if not _is_full(error) or not self.reserve.release():
                raise self._refusal(error) from error
            self._write(statement, values)

    def _refusal(self, error: sqlite3.Error) -> DiskFull | StoreUnusable:
        if _is_full(error):
            return DiskFull(
                "the device's disk is full; fetch results with `backbench run collect --device NAME`, or delete files"
                " on the device"
            )
        return StoreUnusable(f"{self._path} cannot be used: {error}; look at the device's disk")

    def _run(self, row: tuple[Any, ...]) -> Run:
        spec, state, created, started, finished, failure, last, acknowledged, name, fleet = row
        try:
            run = Run(
                spec_from_bytes(spec),
                RunState(state),
                created,
                started,
                finished,
                failure=None if failure is None else failure_from_bytes(failure),
                last_sequence=last,
                acknowledged_sequence=acknowledged,
                owner=Owner(name, fleet),
            )
        except ValueError as error:
            raise JournalCorrupt(f'a run is in state "{state}"; it was written by another version') from error
        if (unwritten := self._unwritten.get(run.spec.run_id)) is not None:
            value, failure, finished, last = unwritten
            failed = None if failure is None else failure_from_bytes(failure)
            run = replace(
                run, state=RunState(value), failure=failed, finished_unix_ns=finished, last_sequence=last
            )  # fmt: skip
        return run


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _remove_logs(path)  # of a file that is gone; SQLite would take them for the new one's
    db = sqlite3.connect(path, isolation_level=None)
    try:
        path.chmod(0o600)
        _make_ready(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _make_ready(db: sqlite3.Connection, path: Path) -> None:
    """Raises sqlite3.DatabaseError for a damaged file, StoreUnusable for a newer one."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if (words := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(words)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _SCHEMA_VERSION:
        raise StoreUnusable(f"{path} was written by a newer agent; update this one or choose another --data-dir")
    if version < _SCHEMA_VERSION:
        steps = _SCHEMA if version == 0 else _FROM_VERSION_1
        db.executescript(f"BEGIN; {steps} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")


def _move_aside(path: Path, error: sqlite3.Error) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.replace(aside)
    _remove_logs(path)
    log.error("%s is damaged (%s) and now called %s; runs are taken from their folders", path, error, aside.name)


def _remove_logs(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_full(error: sqlite3.Error) -> bool:
    return "is full" in str(error)
