"""What is told of a run that waits, where standard error is no terminal."""

from __future__ import annotations

import pytest

from backbench.controller.cli.progress import Lines
from backbench.domain.event import Progress, RunEvent
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec


def test_the_place_of_a_waiting_run_and_who_has_the_device_are_told_as_they_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, spec = Lines(), RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    lines.started(spec, 1, 1)
    for place, holder in ((2, "alice"), (2, "alice"), (1, "alice"), (0, "bob"), (0, "")):
        stage = "queued" if place or holder else "measure"
        lines.happened(RunEvent(None, 1, 1, Progress(stage, queue_position=place, holder=holder)))
    told = [line.partition(": ")[2].partition(": ")[2] for line in capsys.readouterr().err.splitlines()[1:]]
    assert told == [
        "queued, 2 before it; the device is used by alice",
        "queued, 1 before it; the device is used by alice",
        "queued; the device is used by bob",
        "measure",
    ]


def test_a_device_that_cools_down_is_told_with_its_temperature(capsys: pytest.CaptureFixture[str]) -> None:
    lines, spec = Lines(), RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
    lines.started(spec, 1, 1)
    lines.happened(RunEvent(None, 1, 1, Progress("cooling", done_count=61_250, total_count=45_000)))
    assert capsys.readouterr().err.splitlines()[-1].endswith("cooling: 61.2 °C, waiting for 45 °C")
