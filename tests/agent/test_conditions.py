"""The conditions that move a device's numbers: stable, cheap, and of what there is alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from backbench.agent.conditions import conditions_of, read_conditions
from backbench.agent.sensors import simulations
from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.bundle import Bundle, BundleTree, Content
from backbench.agent.sensors.simulations import known_simulations
from backbench.agent.sensors.trees import LiveTree

MACHINE = (
    "memory.page_bytes",
    "container",
    "cgroup.cpu.max",
    "cgroup.memory.max",
    "cgroup.memory.high",
    "cgroup.cpuset.cpus",
)
"""These are of the machine that runs the tests, whatever is replayed."""
CPUFREQ = "sys/devices/system/cpu/cpufreq"
EPOCH_NS = 10**18
"""So far ahead that a timeline is at its beginning."""


def made(files: Mapping[str, Content]) -> dict[str, str]:
    tree = BundleTree(Bundle("made-up", ("x",), files))
    conditions = dict(read_conditions(tree))
    tree.close()
    return {name: value for name, value in conditions.items() if name not in MACHINE}


def of(name: str) -> dict[str, str]:
    return {key: value for key, value in conditions_of(name, EPOCH_NS).items() if key not in MACHINE}


def test_an_orins_conditions_are_read() -> None:
    assert of("jetson-orin-nano-jp621") == {
        "cpu.scaling_min_freq": "729600",
        "cpu.scaling_max_freq": "1728000",
        "clocks.pinned": "no",
        "gpu.governor": "nvhost_podgov",
        "gpu.min_freq": "306000000",
        "gpu.max_freq": "1020000000",
        "power_mode.id": "1",
        "power_mode.name": "25W",
        "ina3221.samples": "512",
        "trip.cpu": "70000 passive, 99000 passive, 104500 critical",
        "memory.swap": "3901464 kB",
    }


def test_a_board_with_nothing_to_choose_has_no_conditions() -> None:
    assert of("container-bare") == {}


@pytest.mark.parametrize("name", known_simulations())
def test_nothing_that_is_measured_is_a_condition(name: str) -> None:
    for condition in of(name):
        assert not condition.startswith(("temp", "power.", "fan.rpm"))
        assert "cur_freq" not in condition
        assert "temp" not in condition.split(".")


STATUS, CONFIGURATION, COMMAND = "var/lib/nvpmodel/status", "etc/nvpmodel.conf", "cmd/nvpmodel -q"
JETSON: Mapping[str, Content] = {"etc/nv_tegra_release": b"# R36\n"}


@pytest.mark.parametrize(
    ("files", "mode"),
    [
        ({STATUS: b"pmode:0002 fmode:quiet\n", CONFIGURATION: b"< POWER_MODEL ID=2 NAME=MAXN >\n"}, ("2", "MAXN")),
        ({STATUS: b"pmode:0000\n"}, ("0", None)),
        ({STATUS: b"pmode:1\n", CONFIGURATION: b"< POWER_MODEL ID=11 NAME=X >\n"}, ("1", None)),
        ({**JETSON, COMMAND: b"NVPM WARN: fan\nNV Power Mode: 15W\n0\n"}, ("0", "15W")),
        ({**JETSON, COMMAND: b"sudo needed\n"}, (None, None)),
        ({**JETSON, COMMAND: Unread("EACCES")}, (None, None)),
        ({STATUS: b"garbage\n"}, (None, None)),
    ],
)
def test_the_power_mode_is_told_by_files_first(
    files: Mapping[str, Content], mode: tuple[str | None, str | None]
) -> None:
    conditions = made(files)
    assert (conditions.get("power_mode.id"), conditions.get("power_mode.name")) == mode


def test_policies_that_differ_are_told_apart_and_equal_ones_are_told_once() -> None:
    files = {
        f"{CPUFREQ}/policy{number}/{file}": text
        for number in (0, 4, 10)
        for file, text in {"scaling_governor": b"performance\n", "scaling_max_freq": b"%d\n" % (number + 1)}.items()
    }
    conditions = made(files)
    assert conditions["cpu.scaling_governor"] == "performance"
    assert conditions["cpu.scaling_max_freq"] == "policy0=1,policy4=5,policy10=11"
    assert "cpu.scaling_min_freq" not in conditions


@pytest.mark.parametrize(
    ("cpu", "gpu", "pinned"),
    [(b"5\n", b"7\n", "yes"), (b"4\n", b"7\n", "no"), (b"5\n", b"6\n", "no"), (None, None, None)],
)
def test_clocks_are_pinned_when_every_lower_limit_is_the_upper_one(
    cpu: bytes | None, gpu: bytes | None, pinned: str | None
) -> None:
    files: dict[str, Content] = {}
    if cpu is not None and gpu is not None:
        folder = "sys/class/devfreq/17000000.gpu"
        files = {
            f"{CPUFREQ}/policy0/scaling_min_freq": cpu,
            f"{CPUFREQ}/policy0/scaling_max_freq": b"5\n",
            f"{folder}/min_freq": gpu,
            f"{folder}/max_freq": b"7\n",
        }
    assert made(files).get("clocks.pinned") == pinned


def test_a_fans_mode_and_swap_are_told() -> None:
    conditions = made(
        {
            "sys/class/hwmon/hwmon2/name": b"pwmfan\n",
            "sys/class/hwmon/hwmon2/pwm1_enable": b"1\n",
            "etc/nvfancontrol.conf": b"\tFAN_DEFAULT_PROFILE quiet\n",
            "proc/meminfo": b"MemTotal: 8 kB\nSwapTotal:      2029472 kB\nSwapFree: 1 kB\n",
            "proc/swaps": b"Filename Type Size Used Priority\n/dev/zram1 partition 5 0 5\n/dev/zram0 partition 5 0 5\n",
        }
    )
    assert conditions == {
        "fan.mode": "manual",
        "fan.default_profile": "quiet",
        "memory.swap": "2029472 kB",
        "memory.swap_devices": "/dev/zram0,/dev/zram1",
    }
    assert made({"sys/devices/pwm-fan/temp_control": b"1\n"}) == {"fan.mode": "automatic"}


def test_trip_points_that_programs_move_are_no_condition() -> None:
    zones = {0: b"x86_pkg_temp\n", 1: b"CPU-therm\n"}
    files: dict[str, Content] = {}
    for number, kind in zones.items():
        folder = f"sys/class/thermal/thermal_zone{number}"
        files |= {f"{folder}/type": kind, f"{folder}/trip_point_0_temp": b"99000\n"}
        files |= {f"{folder}/trip_point_0_type": b"passive\n", f"{folder}/trip_point_1_temp": Unread("EAGAIN")}
    assert made(files) == {"trip.cpu": "99000 passive"}


def test_a_boards_conditions_change_with_its_timeline() -> None:
    assert of("orin-thermal")["clocks.pinned"] == "yes"
    assert of("orin-thermal")["cpu.scaling_max_freq"] == "1728000"
    assert conditions_of("orin-thermal", 0)["cpu.scaling_max_freq"] == "1113600"


def test_a_recording_that_was_taken_away_has_none(tmp_path: Path) -> None:
    assert conditions_of(str(tmp_path / "gone.bundle"), 0) == {}


def test_this_machines_conditions_hold_still() -> None:
    tree = LiveTree()
    first = read_conditions(tree)
    assert first == read_conditions(tree)
    assert first["memory.page_bytes"] == str(os.sysconf("SC_PAGE_SIZE"))
    assert all(first.values())
    tree.close()


def test_no_shipped_board_is_left_out() -> None:
    assert set(known_simulations()) >= {
        path.stem for path in Path(simulations.__file__).parent.glob("bundles/*.bundle")
    }
