"""Disks, networks and processes of this machine."""

from __future__ import annotations

import psutil
import pytest
from tests.fakes.trees import Files

from backbench.agent.sensors.activity import Activity
from backbench.agent.sensors.base import Unread


def test_this_machine_has_processes_and_its_counters_grow() -> None:
    source = Activity(Files({}))
    coverage = source.probe()
    first, second = source.read(), source.read()
    assert {channel.name for channel in coverage.channels} == set(first)
    processes = first["processes"]
    assert isinstance(processes, int)
    assert processes >= 1
    for channel in coverage.channels:
        before, after = first[channel.name], second[channel.name]
        if channel.kind == "counter" and isinstance(before, int) and isinstance(after, int):
            assert after >= before


def test_a_recorded_board_does_not_get_those_of_this_machine() -> None:
    source = Activity(Files({}, simulated=True))
    assert (source.probe().state, source.read()) == ("absent", {})


def test_a_machine_without_disks_has_no_channel_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    names = [channel.name for channel in Activity(Files({})).probe().channels]
    assert "processes" in names
    assert not [name for name in names if name.startswith("disk.")]


@pytest.mark.parametrize(
    ("trouble", "code"), [(PermissionError(13, "refused"), "EACCES"), (NotImplementedError(), "EILSEQ")]
)
def test_a_table_that_cannot_be_read_is_unreadable(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception, code: str
) -> None:
    def refuse() -> None:
        raise trouble

    source = Activity(Files({}))
    source.probe()
    monkeypatch.setattr(psutil, "net_io_counters", refuse)
    assert source.read()["net.sent"] == Unread(code)
