"""The measuring workers' memory, seen from outside."""

from __future__ import annotations

import os
from pathlib import Path

from backbench.agent.sensors.worker import CHANNEL, WorkerMemory


def test_between_workers_nothing_is_read() -> None:
    sensor = WorkerMemory()
    assert sensor.read() == {CHANNEL: None}
    sensor.begin(os.getpid())
    assert (sensor.read()[CHANNEL] or 0) > 1_000_000
    sensor.end(os.getpid())
    assert sensor.read() == {CHANNEL: None}


def test_several_workers_add_up_and_one_that_cannot_be_read_makes_the_sum_unknown(tmp_path: Path) -> None:
    for pid, size in ((1, 100), (2, 50)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(f"Name: x\nRssAnon:\t{size} kB\n")
    sensor = WorkerMemory(tmp_path)
    sensor.begin(1)
    sensor.begin(2)
    assert sensor.read() == {CHANNEL: 150 * 1024}
    sensor.begin(3)
    assert sensor.read() == {CHANNEL: None}
