"""Clocks are pinned for a launch and are what they were afterwards, whatever happens in between."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from backbench.agent.clocks import RESTORE_FILE, Clocks
from backbench.domain.errors import InvalidRunSpec

POLICY = "sys/devices/system/cpu/cpufreq/policy0"
GPU = "sys/class/devfreq/17000000.gpu"
FILES = {
    f"{POLICY}/scaling_governor": "schedutil",
    f"{POLICY}/scaling_available_governors": "performance powersave schedutil",
    f"{POLICY}/scaling_min_freq": "729600",
    f"{POLICY}/scaling_max_freq": "1728000",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "userspace",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_available_governors": "userspace",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq": "1728000",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1728000",
    f"{GPU}/min_freq": "306000000",
    f"{GPU}/max_freq": "1020000000",
    "sys/class/devfreq/17000000.nvdla/min_freq": "1",
    "sys/class/devfreq/17000000.nvdla/max_freq": "2",
    "proc/sys/kernel/random/boot_id": "this start",
}
PINNED = {
    f"{POLICY}/scaling_governor": "performance",
    f"{POLICY}/scaling_min_freq": "1728000",
    f"{GPU}/min_freq": "1020000000",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A board's clocks as files."""
    for path, text in FILES.items():
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return tmp_path / "root"


def contents(root: Path) -> dict[str, str]:
    return {path: (root / path).read_text().strip() for path in FILES}


def clocks_of(root: Path, *, allowed: bool = True) -> Clocks:
    return Clocks(root.parent, allowed=allowed, root=root)


def test_clocks_are_pinned_inside_and_exactly_what_they_were_afterwards(root: Path) -> None:
    with clocks_of(root).pinned() as clocks_set:
        assert contents(root) == {**FILES, **PINNED}
        assert clocks_set.changes == {
            "cpu.policy0.governor": "schedutil -> performance",
            "cpu.policy0.min_khz": "729600 -> 1728000",
            "cpu.policy4.min_khz": "1728000 -> 1728000",
            "gpu.17000000.gpu.min_hz": "306000000 -> 1020000000",
        }
    assert contents(root) == FILES
    assert not (root.parent / RESTORE_FILE).exists()


def test_they_are_put_back_when_the_launch_ends_in_an_error(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), clocks_of(root).pinned():
        raise ZeroDivisionError
    assert contents(root) == FILES


def test_what_was_is_on_the_disk_for_the_agent_alone_before_anything_is_set(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root.parent / RESTORE_FILE
    synced: list[int] = []
    real_open: Any = os.open
    monkeypatch.setattr(os, "fsync", synced.append)
    seen: list[tuple[bool, int, dict[str, str]]] = []

    def watched(path: Any, flags: int, *rest: Any) -> int:
        if str(path).startswith(str(root)):
            seen.append((file.exists(), len(synced), contents(root)))
        return int(real_open(path, flags, *rest))

    monkeypatch.setattr(os, "open", watched)
    with clocks_of(root).pinned():
        assert seen[0] == (True, 2, FILES)
        assert file.stat().st_mode & 0o777 == 0o600
        assert [path for path, _ in json.loads(file.read_text())["values"]] == [
            f"{GPU}/min_freq",
            f"{POLICY}/scaling_min_freq",
            f"{POLICY}/scaling_governor",
        ]


def test_an_agent_that_was_killed_puts_them_back_at_its_next_start(root: Path) -> None:
    killed = clocks_of(root).pinned()
    killed.__enter__()
    assert contents(root) != FILES
    clocks_of(root, allowed=False).restore()
    assert contents(root) == FILES
    clocks_of(root).restore()  # and again: there is nothing left to do
    with clocks_of(root).pinned():
        pass
    assert contents(root) == FILES


def test_a_device_that_has_started_anew_since_keeps_the_clocks_that_it_has(root: Path) -> None:
    killed = clocks_of(root).pinned()
    killed.__enter__()
    boot_id = root / "proc/sys/kernel/random/boot_id"
    boot_id.write_text("the next start\n")
    clocks_of(root).restore()
    assert contents(root)[f"{POLICY}/scaling_governor"] == "performance"
    assert not (root.parent / RESTORE_FILE).exists()


def test_where_one_file_takes_nothing_none_stays_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = os.write

    def refusing(descriptor: int, data: bytes) -> int:
        if data == b"1020000000":
            raise PermissionError(1, "Operation not permitted")
        return int(real(descriptor, data))

    monkeypatch.setattr(os, "write", refusing)
    with (
        pytest.raises(InvalidRunSpec, match=r"gpu/min_freq does not take 1020000000.*run the agent as root"),
        clocks_of(root).pinned(),
    ):
        pass
    assert {path: text for path, text in contents(root).items() if path != f"{GPU}/min_freq"} == {
        path: text for path, text in FILES.items() if path != f"{GPU}/min_freq"
    }


def test_what_cannot_be_put_back_stays_in_the_file_and_no_run_sets_anything_until_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed = clocks_of(root).pinned()
    killed.__enter__()
    with monkeypatch.context() as patch:

        def refusing(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        patch.setattr(os, "write", refusing)
        clocks_of(root).restore()
        assert "run the agent as root" in caplog.text
        with pytest.raises(InvalidRunSpec, match="could not be put back"):
            clocks_of(root).check()
    clocks_of(root).restore()
    assert contents(root) == FILES


def test_who_may_not_set_clocks_is_told_so_before_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRunSpec, match="serve --allow-set-clocks"):
        clocks_of(root, allowed=False).check()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InvalidRunSpec, match=r"/sys/.*/scaling_governor is not writable; run the agent as root"):
        clocks_of(root).check()


def test_a_machine_without_clocks_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRunSpec, match="no cpufreq policy and no GPU"):
        Clocks(tmp_path, allowed=True, root=tmp_path).check()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"values": 3}', '{"values": [1]}'])
def test_a_damaged_file_of_what_was_is_said_and_kept(root: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (root.parent / RESTORE_FILE).write_text(text)
    clocks_of(root).restore()
    assert "cannot be read" in caplog.text
    assert contents(root) == FILES


def test_what_a_governor_was_told_is_put_back_when_it_is_back(root: Path) -> None:
    own, common = root / POLICY / "schedutil/rate_limit_us", root / "sys/devices/system/cpu/cpufreq/schedutil/up_us"
    for file, text in ((own, "500\n"), (common, "7\n")):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    with clocks_of(root).pinned():
        for file in (own, common):
            file.write_text("0\n")  # as the kernel does with a governor that comes anew
    assert (own.read_text().strip(), common.read_text().strip()) == ("500", "7")


def test_clocks_that_are_pinned_already_are_said_and_left_alone(root: Path) -> None:
    for path, text in PINNED.items():
        (root / path).write_text(text + "\n")
    before = contents(root)
    with clocks_of(root).pinned() as clocks_set:
        assert contents(root) == before
        assert clocks_set.changes["cpu.policy0.governor"] == "performance -> performance"
    assert contents(root) == before


def test_a_limit_is_put_back_even_where_a_heat_cap_shows_it_already(root: Path) -> None:
    lowest = root / POLICY / "scaling_min_freq"
    with clocks_of(root).pinned():
        lowest.write_text("729600\n")  # the kernel shows what holds, and keeps what was asked for
        os.utime(lowest, ns=(0, 0))
    assert lowest.stat().st_mtime_ns > 0, "it was not written"
