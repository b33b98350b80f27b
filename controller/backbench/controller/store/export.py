"""A run's frames as a file for people and other programs."""

from __future__ import annotations

from pathlib import Path

import duckdb

from backbench.controller.store.files import write_whole
from backbench.domain.errors import InvalidArgument, StoreUnusable
from backbench.domain.frame import OUTCOME_NUMBERS, FrameTag

_FORMATS = {".csv": "FORMAT csv, HEADER", ".parquet": "FORMAT parquet, COMPRESSION zstd", ".jsonl": "FORMAT json"}


def export_frames(source: Path, destination: Path) -> None:
    """Write every frame with its outcome in words, `warm_up`, `service_ns` and `e2e_ns`; the suffix gives the format.

    Raises InvalidArgument for a suffix that is not known, StoreUnusable when the file cannot be written.
    """
    if destination.suffix not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise InvalidArgument(f'"{destination.name}": frames are written as {known}; choose one of these endings')
    if not destination.parent.is_dir():
        raise InvalidArgument(f"folder {destination.parent} does not exist; make it first")
    words = " ".join(f"WHEN {number} THEN '{outcome.value}'" for outcome, number in OUTCOME_NUMBERS.items())
    query = f"""
        SELECT * REPLACE (CASE outcome {words} END AS outcome),
               tags & {FrameTag.WARM_UP.value} <> 0 AS warm_up,
               done_ns - dequeued_ns AS service_ns,
               done_ns - due_ns AS e2e_ns
        FROM read_parquet({_quoted(source)}) ORDER BY launch, stream, index
    """  # noqa: S608 - only numbers and a quoted path of ours
    try:
        with duckdb.connect() as connection:
            options = _FORMATS[destination.suffix]
            write_whole(destination, lambda path: _copy(connection, f"COPY ({query}) TO {_quoted(path)} ({options})"))
    except (OSError, duckdb.Error) as error:
        raise StoreUnusable(f"{destination} cannot be written: {str(error).splitlines()[0]}") from error


def _copy(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    connection.execute(statement)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
