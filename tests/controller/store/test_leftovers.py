"""Commands killed at any moment leave nothing that a later one stumbles over."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backbench.controller.store import Store
from backbench.controller.store.leftovers import remove_abandoned
from backbench.domain.event import Happening, RunEvent, RunResult, StateChange
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec, RunState

BLOCKS, ROWS = 40, 25
KILLS = 6

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_leftovers as scene
from backbench.controller.store import Store
with Store.open(Path(sys.argv[1])) as store:
    print("ready", flush=True)
    while True:
        scene.fetch(store, scene.create(store))
"""


def create(store: Store) -> str:
    spec = RunSpec(new_run_id(), ModelRef("resnet50", "a" * 64, "skeleton"), 224, 224)
    return store.create_run(spec, "lab1", None, ()).run_id


def block(number: int) -> FrameBlock:
    rows = tuple(range(number * ROWS, (number + 1) * ROWS))
    times = tuple(10**15 + row * 1000 for row in rows)
    done = tuple(each + 900 for each in times)
    ones, zeros = (1,) * ROWS, (0,) * ROWS
    return FrameBlock(0, rows, times, times, done, ones, zeros, zeros, compute_ns=(800,) * ROWS)


def events() -> list[RunEvent]:
    blocks = [block(number) for number in range(BLOCKS)]
    count = BLOCKS * ROWS
    happened: list[Happening] = [StateChange(RunState.RUNNING), *blocks, RunResult(RunState.DONE, None, count, count)]
    return [RunEvent(sequence, 1, 2, happening) for sequence, happening in enumerate(happened, start=1)]


def fetch(store: Store, run_id: str) -> None:
    """What following does, without an agent."""
    with store.log(run_id) as log:
        for event in events()[log.next_sequence - 1 :]:
            log.append(event)
            log.sync()
        store.finish(run_id, log)


def everything_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_process_killed_at_random_moments_leaves_runs_that_can_be_brought_to_their_end(tmp_path: Path) -> None:
    seed = int(os.environ.get("BACKBENCH_TEST_SEED", "20261125"))
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    moments = random.Random(seed)
    root = tmp_path / "store"
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(Path(__file__).parent)], text=True, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 0.6))  # the moment of the kill is what is drawn; nothing is waited for
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Store.open(root) as store:
            assert not list((root / "locks").glob("*"))
            assert not list((root / "runs").glob("*/.*"))
            for record in store.unfinished("lab1"):
                assert not record.state.ended
                fetch(store, record.run_id)
            for record in store.runs(1000):
                assert record.state is RunState.DONE
                assert store.frames(record.run_id)["index"].to_pylist() == list(range(BLOCKS * ROWS))
                assert everything_below(store.run_folder(record.run_id)) == {"frames.parquet", "telemetry.parquet"}
    assert {path.name for path in (root / "runs").iterdir()} == {record.run_id for record in store.runs(1000)}


def left_by_a_killed_process(root: Path, action: str) -> None:
    """Runs an action on the store in a process that kills itself in the middle of it."""
    code = f"import os, signal, sys\nfrom pathlib import Path\nfrom backbench.controller.store import Store\n{action}"
    done = subprocess.run([sys.executable, "-c", code, str(root)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_half_written_files_are_removed_when_the_store_is_opened_next(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        run_id = create(store)
    left_by_a_killed_process(
        tmp_path,
        f"""
store = Store.open(Path(sys.argv[1]))
log = store.log({run_id!r})
(store.run_folder({run_id!r}) / ".frames.parquet.77.part").write_bytes(b"half")
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert (tmp_path / "runs" / run_id / ".frames.parquet.77.part").exists()
    with Store.open(tmp_path):
        assert everything_below(tmp_path / "runs" / run_id) == {"events.log"}
        assert not list((tmp_path / "locks").iterdir())


def test_the_files_of_a_run_that_was_being_removed_are_removed_when_the_store_is_opened_next(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        run_id = create(store)
        fetch(store, run_id)
    left_by_a_killed_process(
        tmp_path,
        f"""
import backbench.controller.store.store as module
module.tidy_run = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
Store.open(Path(sys.argv[1])).remove_run({run_id!r})
""",
    )
    assert (tmp_path / "runs" / run_id / "frames.parquet").exists()
    with Store.open(tmp_path) as store:
        assert store.runs() == ()
        assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("statement", ["CREATE TABLE noise", "UPDATE alembic_version"])
def test_a_store_whose_first_command_was_killed_is_made_by_the_second(tmp_path: Path, statement: str) -> None:
    left_by_a_killed_process(
        tmp_path,
        f"""
from sqlalchemy import Engine, event
@event.listens_for(Engine, "after_cursor_execute")
def kill(connection, cursor, text, *_):
    if {statement!r} in text:
        os.kill(os.getpid(), signal.SIGKILL)
Store.open(Path(sys.argv[1]))
""",
    )
    with Store.open(tmp_path) as store:
        fetch(store, create(store))
        assert len(store.runs()) == 1


def test_what_another_process_works_on_is_left_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        run_id = create(store)
        with store.log(run_id):
            part = store.run_folder(run_id) / ".frames.parquet.77.part"
            part.write_bytes(b"half")
            Store.open(tmp_path).close()
            assert part.exists()


@pytest.mark.parametrize(("age_s", "left"), [(3600, [".part-a"]), (2 * 86400, [])])
def test_folders_that_nobody_fills_any_more_are_removed(tmp_path: Path, age_s: int, left: list[str]) -> None:
    (tmp_path / ".part-a").mkdir()
    then = time.time() - age_s
    os.utime(tmp_path / ".part-a", (then, then))
    remove_abandoned(tmp_path, ".part-*")
    assert [path.name for path in tmp_path.iterdir()] == left
