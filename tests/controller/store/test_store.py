"""Devices and runs in a real SQLite file, frames in real Parquet."""

from __future__ import annotations

import csv
import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from backbench.controller.store import DeviceRecord, DeviceRoofline, RunRecord, Store
from backbench.controller.store import finish as finish_module
from backbench.controller.store import log as log_module
from backbench.controller.store.schema import HEAD, current_revision
from backbench.controller.store.tables import Base
from backbench.domain.device import Device, DeviceIdentity, Limits
from backbench.domain.errors import (
    DeviceNotFound,
    InvalidArgument,
    JournalCorrupt,
    RunNotFinished,
    RunNotFound,
    StoreUnusable,
)
from backbench.domain.event import Happening, Progress, RunEvent, RunResult, StateChange
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec, RunState
from backbench.wire.records import RecordWriter


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def create(store: Store) -> RunRecord:
    spec = RunSpec(new_run_id(), ModelRef("resnet50", "a" * 64, "skeleton"), 224, 224)
    return store.create_run(spec, "lab1", None, ("p50<=30ms",))


def events(frames: int = 20, state: RunState = RunState.DONE) -> list[RunEvent]:
    rows = tuple(range(frames))
    times = tuple(10**15 + row * 1000 for row in rows)
    done = tuple(time + 900 for time in times)
    ones, zeros = (1,) * frames, (0,) * frames
    block = FrameBlock(0, rows, times, times, done, ones, zeros, zeros, compute_ns=(800,) * frames)
    happened: list[Happening] = [StateChange(RunState.RUNNING), block, RunResult(state, None, frames, frames)]
    return [RunEvent(sequence, 1, 2, happening) for sequence, happening in enumerate(happened, start=1)]


def follow(store: Store, run_id: str, happened: list[RunEvent]) -> None:
    with store.log(run_id) as log:
        for event in happened:
            log.append(event)


def test_devices_are_kept_replaced_listed_and_forgotten(store: Store) -> None:
    paired = DeviceRecord("lab1", "127.0.0.1:1", 5, None, "c0ffee", certificate_not_after_unix_s=7, revocation_number=2)
    store.put_device(paired)
    assert store.device("lab1") == paired
    store.put_device(DeviceRecord("lab1", "127.0.0.1:2", 5, None))
    assert store.device("lab1") == DeviceRecord("lab1", "127.0.0.1:2", 5, None)
    with pytest.raises(DeviceNotFound, match="did you mean lab1"):
        store.device("lab2")
    store.remove_device("lab1")
    assert store.devices() == ()


PEAKS = DeviceRoofline(5.5e10, 2.5e10, 7, "onnxruntime", "fp32", 4)


def device(identity: str) -> Device:
    return Device(identity, DeviceIdentity(), (), (), Limits(), "0.1.0", 2, 1, "instance")


def test_a_roofline_is_kept_replaced_and_forgotten_with_its_device(store: Store) -> None:
    with pytest.raises(DeviceNotFound):
        store.roofline("lab1")
    store.put_device(DeviceRecord("lab1", "127.0.0.1:1", 5, None))
    assert store.roofline("lab1") is None
    for roofline in (PEAKS, replace(PEAKS, peak_flops_per_s=1.0, threads=None)):
        store.put_roofline("lab1", roofline)
        assert store.roofline("lab1") == roofline
    assert PEAKS.ridge_flop_per_byte == 2.2
    store.remove_device("lab1")
    store.put_device(DeviceRecord("lab1", "127.0.0.1:1", 5, None))
    assert store.roofline("lab1") is None


NOISE = {"schema": "backbench.noise/1", "measured_unix_ns": 7, "noise_floor": 0.012}


def test_the_newest_noise_measurement_is_kept_and_forgotten_with_its_device(store: Store) -> None:
    with pytest.raises(DeviceNotFound):
        store.noise("lab1")
    store.put_device(DeviceRecord("lab1", "127.0.0.1:1", 5, None))
    assert store.noise("lab1") is None
    for document in (NOISE, {**NOISE, "measured_unix_ns": 8, "noise_floor": 0.5}):
        store.put_noise("lab1", document)
        assert store.noise("lab1") == document
    store.remove_device("lab1")
    store.put_device(DeviceRecord("lab1", "127.0.0.1:1", 5, None))
    assert store.noise("lab1") is None


@pytest.mark.parametrize(
    ("known", "new", "kept"),
    [
        (DeviceRecord("lab1", "a:1", 5, None), DeviceRecord("lab1", "a:1", 5, device("one")), True),
        (DeviceRecord("lab1", "a:1", 5, None), DeviceRecord("lab1", "b:1", 5, device("one")), False),
        (DeviceRecord("lab1", "a:1", 5, device("one")), DeviceRecord("lab1", "b:1", 5, device("one")), True),
        (DeviceRecord("lab1", "a:1", 5, device("one")), DeviceRecord("lab1", "a:1", 5, device("two")), False),
    ],
)
def test_what_was_measured_of_a_device_stays_with_it_and_not_with_its_name(
    store: Store, known: DeviceRecord, new: DeviceRecord, kept: bool
) -> None:
    store.put_device(known)
    store.put_roofline("lab1", PEAKS)
    store.put_noise("lab1", NOISE)
    store.put_device(new)
    assert (store.roofline("lab1") is not None) == kept
    assert (store.noise("lab1") is not None) == kept


def test_a_store_of_an_older_version_is_brought_up_with_everything_in_it(store: Store) -> None:
    store.put_device(DeviceRecord("lab1", "127.0.0.1:1", 5, None))
    record = create(store)
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE roofline")
        connection.exec_driver_sql("DROP TABLE noise")
        connection.exec_driver_sql("ALTER TABLE run DROP COLUMN model_facts")
        for column in ("device_id", "certificate_not_after_unix_s", "revocation_number"):
            connection.exec_driver_sql(f"ALTER TABLE device DROP COLUMN {column}")
        for column in ("ca_file", "certificate_file", "key_file"):
            connection.exec_driver_sql(f"ALTER TABLE device ADD COLUMN {column} VARCHAR DEFAULT 'ca.pem'")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    with Store.open(store.root) as opened:
        assert current_revision(opened._engine) == HEAD
        assert opened.roofline("lab1") is None
        opened.put_roofline("lab1", PEAKS)
        assert opened.roofline("lab1") == PEAKS
        opened.put_noise("lab1", NOISE)
        assert opened.noise("lab1") == NOISE
        assert opened.run(record.run_id) == record
        assert opened.device("lab1") == DeviceRecord("lab1", "127.0.0.1:1", 5, None)


def test_the_tables_of_the_code_are_those_of_the_migrations(store: Store) -> None:
    from sqlalchemy import inspect

    found = inspect(store._engine)
    for table in Base.metadata.tables.values():
        columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
        wanted = {column.name: bool(column.nullable) for column in table.columns if not column.primary_key}
        assert columns.items() >= wanted.items(), table.name
        assert len(columns) == len(table.columns)


def test_a_run_is_found_by_its_id_and_by_an_unambiguous_part_of_it(store: Store) -> None:
    record, other = create(store), create(store)
    assert store.run(record.run_id) == store.run(record.run_id[-8:]) == record
    assert {each.run_id for each in store.runs()} == {record.run_id, other.run_id}
    with pytest.raises(RunNotFound, match="fits 2 runs"):
        store.run(record.run_id[:6])
    with pytest.raises(RunNotFound, match="backbench run list"):
        store.run("abc")


def test_frames_that_went_in_come_out_once_however_often_they_are_sent(store: Store) -> None:
    record = create(store)
    with pytest.raises(RunNotFinished):
        store.finish(record.run_id)
    with store.log(record.run_id) as log:
        assert not log.append(RunEvent(None, 1, 2, Progress("measure")))
        with pytest.raises(JournalCorrupt):
            log.append(events()[1])
        assert [log.append(event) for event in events()[:2]] == [True, True]
    with store.log(record.run_id) as log:
        assert log.next_sequence == 3
        assert [log.append(event) for event in events()] == [False, False, True]
    finished = store.finish(record.run_id)
    assert store.finish(record.run_id) == finished
    assert finished.document is not None
    assert finished.document["verdict"] == "pass"
    assert store.frames(record.run_id)["index"].to_pylist() == list(range(20))
    assert store.frames(record.run_id)["preprocess_ns"].null_count == 20
    assert sorted(path.name for path in store.run_folder(record.run_id).iterdir()) == [
        "frames.parquet",
        "telemetry.parquet",
    ]
    assert store.query("SELECT run_id, count(*) FROM frames GROUP BY run_id") == [(record.run_id, 20)]


def test_runs_of_an_older_version_are_asked_with_the_others(store: Store) -> None:
    old, new = create(store), create(store)
    for record in (old, new):
        follow(store, record.run_id, events())
        store.finish(record.run_id)
    path = store.run_folder(old.run_id) / "frames.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns(["throttled"]), path)
    rows = store.query("SELECT run_id, count(*), count(throttled) FROM frames GROUP BY run_id ORDER BY run_id")
    assert rows == [(record.run_id, 20, 0) for record in sorted((old, new), key=lambda record: record.run_id)]


def test_a_failed_run_without_frames_has_a_document_of_nulls(store: Store) -> None:
    record = create(store)
    follow(store, record.run_id, [RunEvent(1, 1, 2, RunResult(RunState.INTERRUPTED))])
    document = store.finish(record.run_id).document
    assert document is not None
    assert document["state"] == "interrupted"
    assert document["latency_ms"]["service"] is None
    assert document["throughput_fps"] is None
    assert document["validity"]["status"] == "invalid"


def test_a_second_process_cannot_follow_the_same_run(store: Store) -> None:
    record = create(store)
    with store.log(record.run_id), pytest.raises(StoreUnusable, match="another process"):
        store.log(record.run_id)


@pytest.mark.parametrize("method", ["append", "sync"])
def test_a_disk_that_takes_no_more_is_named_with_what_to_do(
    store: Store, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = create(store)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, method, full)
    with pytest.raises(StoreUnusable, match=r"events\.log cannot be written: No space left on device; see to"):
        follow(store, record.run_id, events())
    monkeypatch.undo()
    follow(store, record.run_id, events())
    assert store.finish(record.run_id).state is RunState.DONE


def test_a_result_that_cannot_be_written_is_finished_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    record = create(store)
    follow(store, record.run_id, events())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(finish_module, "write_whole", full)
    with pytest.raises(StoreUnusable, match=f"{record.run_id} cannot be written: No space left on device"):
        store.finish(record.run_id)
    monkeypatch.undo()
    assert store.finish(record.run_id).state is RunState.DONE


def test_the_folder_of_a_run_is_on_the_disk_before_anything_is_in_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(log_module, "sync_folder", synced.append)
    record = create(store)
    for _ in range(2):
        store.log(record.run_id).close()
    assert synced == [store.root / "runs"]


def test_a_process_killed_while_it_appends_leaves_a_log_that_goes_on(store: Store) -> None:
    record = create(store)
    code = (
        "import sys, os\nfrom pathlib import Path\n"
        "from backbench.controller.store import Store\n"
        "from backbench.domain.event import *\n"
        "store = Store.open(Path(sys.argv[1])); log = store.log(sys.argv[2])\n"
        "for n in range(1, 10**6):\n"
        "    log.append(RunEvent(n, 1, 2, LogLine('info', 'x' * 100)))\n"
        "    if n == 500: print('now', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.root), record.run_id], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with store.log(record.run_id) as log:
        sequence = log.next_sequence
        assert sequence > 500
        assert [event.sequence for event in log.events()] == list(range(1, sequence))
        assert log.append(RunEvent(sequence, 1, 2, RunResult(RunState.DONE)))
    assert store.finish(record.run_id).state is RunState.DONE


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_frames_are_exported_whole(store: Store, tmp_path: Path, suffix: str) -> None:
    record = create(store)
    follow(store, record.run_id, events())
    store.finish(record.run_id)
    destination = tmp_path / f"frames{suffix}"
    store.export_frames(record.run_id, destination)
    assert destination.stat().st_size > 0
    if suffix == ".csv":
        with destination.open() as file:
            rows = list(csv.DictReader(file))
        assert [row["service_ns"] for row in rows] == ["900"] * 20
        assert {row["outcome"] for row in rows} == {"completed"}
    assert not list(tmp_path.glob(".*part"))


def test_an_unknown_ending_and_a_missing_folder_are_refused(store: Store, tmp_path: Path) -> None:
    record = create(store)
    follow(store, record.run_id, events())
    store.finish(record.run_id)
    for name in ("frames.xls", "missing/frames.csv"):
        with pytest.raises(InvalidArgument):
            store.export_frames(record.run_id, tmp_path / name)


def test_what_is_no_store_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "backbench.sqlite").write_bytes(b"no database" * 100)
    for name in ("file", "garbage"):
        with pytest.raises(StoreUnusable, match="--store") as caught:
            Store.open(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_store_of_a_newer_version_is_refused(store: Store) -> None:
    with store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUnusable, match="newer"):
        Store.open(store.root)


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    scripts = Path(sys.modules["backbench.controller.store.schema"].__file__ or "").parent / "migrations" / "versions"
    assert max(path.name for path in scripts.glob("*.py")).startswith(HEAD)


def test_the_store_is_for_its_owner_alone(store: Store) -> None:
    assert store.root.stat().st_mode & 0o777 == 0o700
    assert (store.root / "backbench.sqlite").stat().st_mode & 0o777 == 0o600
