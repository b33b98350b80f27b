"""The store: one folder with an SQLite file, and a folder a run."""

from __future__ import annotations

import difflib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, delete, event, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from backbench.controller.store.leftovers import tidy, tidy_run
from backbench.controller.store.log import EventLog, unwritable
from backbench.controller.store.records import DeviceRecord, DeviceRoofline, RunRecord
from backbench.controller.store.rows import run_record
from backbench.controller.store.schema import bring_up
from backbench.controller.store.tables import DeviceRow, NoiseRow, RooflineRow, RunRow
from backbench.domain.device import Device
from backbench.domain.errors import BackbenchError, DeviceNotFound, RunNotFinished, RunNotFound, StoreUnusable
from backbench.domain.run import RunSpec, RunState
from backbench.wire.device import device_from_bytes, device_to_bytes
from backbench.wire.run import spec_to_bytes

if TYPE_CHECKING:
    import pyarrow as pa

    from backbench.controller.analysis.latency import Columns

_SHORTEST_REFERENCE = 4


def default_root() -> Path:
    """$BACKBENCH_HOME, else backbench in the user's data folder."""
    if home := os.environ.get("BACKBENCH_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "backbench"


class Store:
    """A context manager; make one with `Store.open`."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.root = root
        self._engine = engine

    @classmethod
    def open(cls, root: Path) -> Store:
        """The store in a folder, which is made when it is missing. Raises StoreUnusable."""
        path = root / "backbench.sqlite"
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StoreUnusable(
                f"store {root} cannot be used: {error.strerror}; choose another with --store"
            ) from error
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 15})
        event.listen(engine, "connect", _configure)
        try:
            bring_up(engine)
        except (DatabaseError, BackbenchError) as error:
            engine.dispose()
            if isinstance(error, BackbenchError):
                raise
            cause = str(error.orig or error).splitlines()[0]
            raise StoreUnusable(
                f"store {path} cannot be used: {cause}; move it away or choose another --store"
            ) from error
        store = cls(root, engine)
        tidy(root, store.is_finished)
        return store

    def close(self) -> None:
        """Close the SQLite file."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Devices

    def put_device(self, record: DeviceRecord) -> None:
        """Keep a device under its name, in place of one that had it; what was measured of another one goes with it."""
        row = DeviceRow(
            name=record.name,
            address=record.address,
            added_unix_ns=record.added_unix_ns,
            device=_packed(record.device),
            device_id=record.device_id,
            certificate_not_after_unix_s=record.certificate_not_after_unix_s,
            revocation_number=record.revocation_number,
        )
        with self._session() as session:
            known = session.get(DeviceRow, record.name)
            if known is not None and _is_another(_device_record(known), record):
                _forget_measurements(session, record.name)
            session.merge(row)

    def device(self, name: str) -> DeviceRecord:
        """The device of that name. Raises DeviceNotFound with the closest names."""
        with self._session() as session:
            row = session.get(DeviceRow, name)
            if row is None:
                raise self._unknown_device(name, session)
            return _device_record(row)

    def devices(self) -> tuple[DeviceRecord, ...]:
        """Every device, by name."""
        with self._session() as session:
            return tuple(_device_record(row) for row in session.scalars(select(DeviceRow).order_by(DeviceRow.name)))

    def remove_device(self, name: str) -> None:
        """Forget a device; its runs stay. Raises DeviceNotFound."""
        with self._session() as session:
            row = session.get(DeviceRow, name)
            if row is None:
                raise self._unknown_device(name, session)
            session.delete(row)
            _forget_measurements(session, name)

    def put_roofline(self, name: str, roofline: DeviceRoofline) -> None:
        """Keep a device's peak rates, in place of older ones."""
        with self._session() as session:
            session.merge(RooflineRow(device_name=name, **asdict(roofline)))

    def roofline(self, name: str) -> DeviceRoofline | None:
        """A device's peak rates; None where they were not measured. Raises DeviceNotFound."""
        with self._session() as session:
            row = session.get(RooflineRow, name)
            if row is not None:
                return DeviceRoofline(**{field.name: getattr(row, field.name) for field in fields(DeviceRoofline)})
            if session.get(DeviceRow, name) is None:
                raise self._unknown_device(name, session)
            return None

    def put_noise(self, name: str, document: Mapping[str, Any]) -> None:
        """Keep a device's `backbench.noise/1` document, in place of an older one."""
        row = NoiseRow(
            device_name=name, measured_unix_ns=document["measured_unix_ns"], document=json.dumps(dict(document))
        )
        with self._session() as session:
            session.merge(row)

    def noise(self, name: str) -> dict[str, Any] | None:
        """A device's newest `backbench.noise/1` document; None where noise was not measured. Raises DeviceNotFound."""
        with self._session() as session:
            row = session.get(NoiseRow, name)
            if row is not None:
                return dict(json.loads(row.document))
            if session.get(DeviceRow, name) is None:
                raise self._unknown_device(name, session)
            return None

    # Runs

    def create_run(
        self,
        spec: RunSpec,
        device_name: str,
        device: Device | None,
        budgets: tuple[str, ...],
        group: str = "",
        model_facts: Mapping[str, Any] | None = None,
        created_unix_ns: int | None = None,
    ) -> RunRecord:
        """Note a run before it is submitted, so that it can be followed whatever happens to this process.

        One that is here already, by another process meanwhile, stays as it is.
        `created_unix_ns` is that of a run that was submitted elsewhere.
        """
        row = insert(RunRow).values(
            run_id=spec.run_id,
            device_name=device_name,
            device=_packed(device),
            spec=spec_to_bytes(spec),
            state=RunState.QUEUED.value,
            budgets=json.dumps(budgets),
            created_unix_ns=created_unix_ns or time.time_ns(),
            finished_unix_ns=None,
            document=None,
            model_facts=None if model_facts is None else json.dumps(model_facts),
            group=group,
        )
        with self._session() as session:
            session.execute(row.on_conflict_do_nothing())
            return run_record(session.get_one(RunRow, spec.run_id))

    def set_state(self, run_id: str, state: RunState) -> None:
        """Note where a run stands, unless it is finished here."""
        with self._session() as session:
            unfinished = RunRow.document.is_(None)
            session.execute(update(RunRow).where(RunRow.run_id == run_id, unfinished).values(state=state.value))

    def run(self, reference: str) -> RunRecord:
        """The run of that id, or of an unambiguous beginning or end of it. Raises RunNotFound."""
        with self._session() as session:
            row = session.get(RunRow, reference)
            if row is not None:
                return run_record(row)
            wanted = reference.lower()
            ids = session.scalars(select(RunRow.run_id).order_by(RunRow.created_unix_ns.desc())).all()
            long_enough = len(wanted) >= _SHORTEST_REFERENCE
            found = [each for each in ids if long_enough and (each.startswith(wanted) or each.endswith(wanted))]
            if len(found) != 1:
                raise RunNotFound(_unknown_run(reference, found))
            return run_record(session.get_one(RunRow, found[0]))

    def runs(self, limit: int = 50, device: str | None = None, state: RunState | None = None) -> tuple[RunRecord, ...]:
        """Runs, newest first."""
        query = select(RunRow).order_by(RunRow.created_unix_ns.desc(), RunRow.run_id.desc()).limit(limit)
        if device is not None:
            query = query.where(RunRow.device_name == device)
        if state is not None:
            query = query.where(RunRow.state == state.value)
        with self._session() as session:
            return tuple(run_record(row) for row in session.scalars(query))

    def unfinished(self, device: str) -> tuple[RunRecord, ...]:
        """A device's runs that have not been fetched to their end, oldest first."""
        query = select(RunRow).where(RunRow.device_name == device, RunRow.document.is_(None))
        with self._session() as session:
            return tuple(run_record(row) for row in session.scalars(query.order_by(RunRow.created_unix_ns)))

    def is_finished(self, run_id: str) -> bool | None:
        """Whether a run is here to its end; None for one that the store does not know."""
        with self._session() as session:
            return session.scalar(select(RunRow.document.is_not(None)).where(RunRow.run_id == run_id))

    def run_folder(self, run_id: str) -> Path:
        """Where a run's files lie."""
        return self.root / "runs" / run_id

    def log(self, run_id: str) -> EventLog:
        """The run's event log, for this process alone. Raises StoreUnusable when another one has it."""
        return EventLog(self.run_folder(run_id) / "events.log", self.root / "locks" / f"{run_id}.lock")

    def finish(self, run_id: str, log: EventLog | None = None) -> RunRecord:
        """Turn the log into Parquet files and the run's document; may be cut off and repeated at any point.

        `log` is the run's, where the caller has it open. Raises RunNotFinished while the result is not here.
        """
        if log is None:
            with self.log(run_id) as opened:
                return self.finish(run_id, opened)
        record = self.run(run_id)
        if record.document is None:
            from backbench.controller.store.finish import finished_document

            if not log.ended:
                raise RunNotFinished(f"run {run_id} has no result yet; fetch it: backbench run follow {run_id[-8:]}")
            noise = self._noise_of(record.device_name)
            try:
                document = finished_document(record, log.events(), self.run_folder(run_id), noise)
            except OSError as error:
                raise unwritable(self.run_folder(run_id), error) from error
            with self._session() as session:
                row = session.get_one(RunRow, run_id)
                row.document = json.dumps(document, sort_keys=False)
                row.state = document["state"]
                row.finished_unix_ns = time.time_ns()
        tidy_run(self.run_folder(run_id), finished=True)
        return self.run(run_id)

    def _noise_of(self, device: str) -> dict[str, Any] | None:
        try:
            return self.noise(device)
        except DeviceNotFound:
            return None

    def frames(self, run_id: str) -> pa.Table:
        """Every frame of a finished run. Raises RunNotFinished."""
        return self._table(run_id, "frames.parquet")

    def telemetry(self, run_id: str) -> pa.Table:
        """Every telemetry value of a finished run, one row a sample and channel. Raises RunNotFinished."""
        return self._table(run_id, "telemetry.parquet")

    def layers(self, run_id: str) -> list[dict[str, Any]]:
        """A row a layer of a run with a layers pass, in the order of execution. Raises RunNotFinished."""
        rows: list[dict[str, Any]] = self._table(run_id, "layers.parquet").to_pylist()
        return rows

    def frame_columns(self, run_id: str) -> Columns:
        """The frames as analysis takes them."""
        from backbench.controller.store.columns import masked_columns

        return masked_columns(self.frames(run_id))

    def export_frames(self, run_id: str, destination: Path) -> None:
        """Write the frames as .csv, .parquet or .jsonl."""
        from backbench.controller.store.export import export_frames

        export_frames(self._file(run_id, "frames.parquet"), destination)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a DuckDB query over the views `frames` and `telemetry` (both with `run_id`) of finished runs."""
        import duckdb

        with duckdb.connect() as connection:
            for name in ("frames", "telemetry"):
                pattern = str(self.root / "runs" / "*" / f"{name}.parquet").replace("'", "''")
                connection.execute(
                    f"CREATE VIEW {name} AS SELECT parse_path(filename)[-2] AS run_id, * EXCLUDE (filename) "  # noqa: S608
                    f"FROM read_parquet('{pattern}', filename = true, union_by_name = true)"
                )
            return connection.execute(sql).fetchall()

    def remove_run(self, run_id: str) -> None:
        """Forget a run and remove its files. Raises StoreUnusable while another process follows it."""
        with self.log(run_id):
            with self._session() as session:
                session.execute(delete(RunRow).where(RunRow.run_id == run_id))
            tidy_run(self.run_folder(run_id), finished=None)

    def _table(self, run_id: str, name: str) -> pa.Table:
        import pyarrow.parquet

        return pyarrow.parquet.read_table(self._file(run_id, name))

    def _file(self, run_id: str, name: str) -> Path:
        record = self.run(run_id)
        path = self.run_folder(record.run_id) / name
        if record.document is None or not path.is_file():
            raise RunNotFinished(
                f"run {record.run_id[-8:]} is not fetched to its end; do it: backbench run follow {record.run_id[-8:]}"
            )
        return path

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DatabaseError as error:
            cause = str(error.orig or error).splitlines()[0]
            raise StoreUnusable(
                f"store {self.root} failed: {cause}; see to the disk or choose another --store"
            ) from error

    @staticmethod
    def _unknown_device(name: str, session: Session) -> DeviceNotFound:
        known = list(session.scalars(select(DeviceRow.name)))
        close = difflib.get_close_matches(name, known, 3, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "see backbench device list, or backbench device add"
        return DeviceNotFound(f'no device "{name}"; {hint}', device=name)


def _forget_measurements(session: Session, name: str) -> None:
    session.execute(delete(RooflineRow).where(RooflineRow.device_name == name))
    session.execute(delete(NoiseRow).where(NoiseRow.device_name == name))


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _packed(device: Device | None) -> bytes | None:
    return None if device is None else device_to_bytes(device)


def _device_record(row: DeviceRow) -> DeviceRecord:
    device = None if row.device is None else device_from_bytes(row.device)
    return DeviceRecord(
        name=row.name,
        address=row.address,
        added_unix_ns=row.added_unix_ns,
        device=device,
        device_id=row.device_id,
        certificate_not_after_unix_s=row.certificate_not_after_unix_s,
        revocation_number=row.revocation_number,
    )


def _is_another(known: DeviceRecord, record: DeviceRecord) -> bool:
    if known.device is not None and record.device is not None:
        return known.device.device_id != record.device.device_id
    return known.address != record.address


def _unknown_run(reference: str, found: list[str]) -> str:
    if len(found) > 1:
        return f'"{reference}" fits {len(found)} runs: {", ".join(found[:5])}; give more of the id'
    return f'no run "{reference[:64]}"; see backbench run list'
