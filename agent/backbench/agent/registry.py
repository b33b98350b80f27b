"""The runs that this agent knows, in SQLite: what was asked, where each stands, what was acknowledged."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from backbench.domain.errors import RunNotFound, StoreUnusable
from backbench.domain.run import Run, RunFailure, RunSpec, RunState
from backbench.wire.run import failure_from_bytes, failure_to_bytes, spec_from_bytes, spec_to_bytes

_SCHEMA_VERSION = 1
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
    acknowledged_sequence INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
_COLUMNS = (
    "spec, state, created_unix_ns, started_unix_ns, finished_unix_ns, failure, last_sequence, acknowledged_sequence"
)


class Registry:
    """One SQLite file, used from one thread."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
            elif version != _SCHEMA_VERSION:
                raise StoreUnusable(
                    f"{path} was written by a newer agent; update this one or choose another --data-dir"
                )
        except sqlite3.Error as error:
            raise StoreUnusable(f"{path} cannot be used: {error}; move it away or choose another --data-dir") from error

    def add(self, spec: RunSpec) -> Run:
        """A new queued run."""
        now = time.time_ns()
        self._db.execute(
            "INSERT INTO run (run_id, spec, state, created_unix_ns) VALUES (?, ?, ?, ?)",
            (spec.run_id, spec_to_bytes(spec), RunState.QUEUED.value, now),
        )
        return Run(spec, RunState.QUEUED, now)

    def get(self, run_id: str) -> Run:
        """One run. Raises RunNotFound."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM run WHERE run_id = ?", (run_id,)).fetchone()  # noqa: S608
        if row is None:
            raise RunNotFound(f"this agent has no run {run_id[:64]}; see `backbench run list`", run_id=run_id[:64])
        return _run(row)

    def list(self) -> tuple[Run, ...]:
        """Every run, newest first."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM run ORDER BY created_unix_ns DESC, run_id DESC")  # noqa: S608
        return tuple(_run(row) for row in rows)

    def set_state(self, run_id: str, state: RunState) -> None:
        """Move a run on; leaving the queue is when it starts."""
        self._db.execute(
            "UPDATE run SET state = ?, started_unix_ns = coalesce(started_unix_ns, ?) WHERE run_id = ?",
            (state.value, None if state is RunState.QUEUED else time.time_ns(), run_id),
        )

    def finish(self, run_id: str, state: RunState, failure: RunFailure | None, last_sequence: int) -> None:
        """End a run."""
        packed = None if failure is None else failure_to_bytes(failure)
        self._db.execute(
            "UPDATE run SET state = ?, failure = ?, finished_unix_ns = ?, last_sequence = ? WHERE run_id = ?",
            (state.value, packed, time.time_ns(), last_sequence, run_id),
        )

    def acknowledge(self, run_id: str, sequence: int) -> None:
        """Keep how far a controller has stored the run; it never goes back."""
        self._db.execute(
            "UPDATE run SET acknowledged_sequence = max(acknowledged_sequence, ?) WHERE run_id = ?", (sequence, run_id)
        )

    def delete(self, run_id: str) -> None:
        """Forget a run."""
        self._db.execute("DELETE FROM run WHERE run_id = ?", (run_id,))

    def setting(self, name: str) -> str | None:
        """A kept value; None when there is none."""
        row = self._db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_setting(self, name: str, value: str) -> None:
        """Keep a value."""
        self._db.execute("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _run(row: tuple[bytes, str, int, int | None, int | None, bytes | None, int, int]) -> Run:
    spec, state, created, started, finished, failure, last, acknowledged = row
    return Run(
        spec_from_bytes(spec),
        RunState(state),
        created,
        started,
        finished,
        failure=None if failure is None else failure_from_bytes(failure),
        last_sequence=last,
        acknowledged_sequence=acknowledged,
    )
