"""The sampler gets a processor that a run leaves free, and the slowest of these."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backbench.agent.sampling.processors import spare_processor


def clocks(root: Path, highest_khz: dict[int, str]) -> Path:
    for number, text in highest_khz.items():
        folder = root / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(text)
    return root


@pytest.mark.parametrize(
    ("usable", "busy", "highest_khz", "spare"),
    [
        ({0, 1, 2, 3}, 3, {}, 0),
        ({2, 3}, 1, {}, 2),
        ({0, 1, 2, 3}, 4, {}, None),
        ({0}, 1, {}, None),
        ({0, 1, 2, 3}, 2, {0: "2400000\n", 1: "2400000\n", 2: "1800000\n", 3: "1800000\n"}, 2),
        ({0, 1}, 1, {0: "2400000\n", 1: "what\n"}, 1),
    ],
)
def test_one_is_free_where_there_are_more_than_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable: set[int], busy: int, highest_khz: dict[int, str],
    spare: int | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: usable)
    assert spare_processor(busy, clocks(tmp_path, highest_khz)) == spare
