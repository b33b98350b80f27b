"""A run's events become files and a document."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
from tests.controller.boards import after, frames, read

from backbench.controller.store import RunRecord
from backbench.controller.store.export import export_frames
from backbench.controller.store.finish import finished_document
from backbench.domain.event import Happening, RunEvent, RunResult
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec, RunState


def test_every_frame_is_kept_with_whether_the_device_held_its_clocks_back(tmp_path: Path) -> None:
    spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    record = RunRecord(spec.run_id, "lab1", None, spec, RunState.DONE, (), 1)
    heat = read("thermal", 2.0, 5, throttle__thermal__cooling=after(4.0, 0, 1))
    happenings: tuple[Happening, ...] = (frames(6.0), heat, RunResult(RunState.DONE))
    events = [RunEvent(place, 1, 1, each) for place, each in enumerate(happenings, start=1)]
    made = [finished_document(record, events, tmp_path) for _ in range(2)]
    assert made[0] == made[1]
    table = pyarrow.parquet.read_table(made[0]["files"]["frames"])
    assert table.num_rows == 600
    tags = table["throttled"].to_pylist()
    assert set(tags[:250]) == {0}
    assert set(tags[-200:]) == {None}  # nothing was read any more
    export_frames(Path(made[0]["files"]["frames"]), tmp_path / "frames.csv")
    header, first, *_ = (tmp_path / "frames.csv").read_text().splitlines()
    assert dict(zip(header.split(","), first.split(","), strict=True))["throttled"] == "0"
