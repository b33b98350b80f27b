"""Every recorded board, through every source that is always read and the power management chip."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import pytest

from backbench.agent.sensors.base import Unread, Value
from backbench.agent.sensors.bundle import read_bundle, unpack
from backbench.agent.sensors.table import make_sources
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.trees import open_tree
from backbench.domain.device import SensorChannel

_BUNDLES = Path(str(files("backbench.agent.sensors"))) / "bundles"
EXPECTED: Mapping[str, Mapping[str, Value]] = {
    "jetson-nano-jp451": {
        "power.total": 5607,
        "power.rail.POM_5V_GPU": 118,
        "power.rail.POM_5V_CPU": 2843,
        "power.input": 5008,
        "gpu.util": 350,
        "gpu.clock": 460_800_000,
        "temp.ao": 41500,
        "temp.cpu": 34000,
        "throttle.thermal.cooling": 0,
        "mem.gpu_shared": 184320 * 1024,
        "mode.power": 0,
    },
    "jetson-xavier-nx-jp512": {
        "power.total": 2764,
        "power.rail.VDD_SOC": 651,
        "gpu.clock": 114_750_000,
        "temp.aux": 45000,
    },
    "jetson-orin-nano-jp621": {
        "power.total": 5133,
        "power.rail.VDD_CPU_GPU_CV": 1064,
        "power.rail.VDD_SOC": 1540,
        "gpu.util": 48,
        "gpu.clock_max": 1_020_000_000,
        "temp.cv0": Unread("EAGAIN"),
        "temp.tj": 47906,
        "throttle.events.undervolt": 0,
        "throttle.events.oc_avg": 0,
        "throttle.events.oc_inst": 37,
        "throttle.advisory.hot_surface": 1,
        "throttle.thermal.cooling": 0,
        "throttle.power.alarm": 0,
        "cpu.clock.policy0": 1_344_000_000,
        "cpu.clock_delivered.policy0": Unread("EACCES"),
        "emc.clock": 2_133_000_000,
        "mode.power": 1,
        "fan.rpm": 1145,
    },
    "jetson-agx-orin-jp51": {
        "power.rail.VDD_GPU_SOC": 2336,
        "power.rail.VDD_CPU_CV": 396,
        "power.rail.VIN_SYS_5V0": 4026,
        "power.rail.VDDQ_VDD2_1V8AO": 301,
        "power.total": 6758,
        "temp.gpu": Unread("EAGAIN"),
        "temp.tboard": 32000,
    },
    "jetson-thor-jp71": {
        "power.total": 22968,
        "power.input": 19800,
        "gpu.clock": Unread("EAGAIN"),
        "temp.gpu": Unread("EAGAIN"),
        "throttle.events.oc_avg": 8,
        "throttle.events.oc_inst": 813,
        "emc.clock": 665_000_000,
    },
    "rpi5-bookworm": {
        "power.total": 7369,
        "power.input": 4924,
        "throttle.raw.firmware": 0,
        "throttle.undervoltage.firmware": 0,
        "throttle.thermal.firmware": 0,
        "throttle.undervoltage.rpi_volt": 0,
        "cpu.clock_delivered.arm": 2_400_016_384,
        "cpu.clock.policy0": 2_400_000_000,
        "temp.cpu": 61750,
        "temp.rp1_adc": 54310,
        "fan.pwm": 490,
    },
    "rpi4-undervolt": {
        "throttle.raw.firmware": 0x50005,
        "throttle.undervoltage.firmware": 1,
        "throttle.thermal.firmware": 1,
        "throttle.frequency.firmware": 0,
        "throttle.latched.undervoltage.firmware": 1,
        "throttle.latched.thermal.firmware": 1,
        "throttle.undervoltage.rpi_volt": 1,
        "cpu.clock.policy0": 1_800_000_000,
        "cpu.clock_delivered.arm": 600_117_184,
    },
    "rpi3bplus-softlimit": {
        "throttle.raw.firmware": 0x80008,
        "throttle.softlimit.firmware": 1,
        "throttle.thermal.firmware": 0,
        "throttle.undervoltage.rpi_volt": 0,
        "cpu.clock.policy0": 1_400_000_000,
        "cpu.clock_delivered.arm": 1_200_126_000,
    },
    "generic-x86-rapl": {
        "energy.package-0": 262_143_318_123,
        "throttle.events.package": 12,
        "psi.mem.some": 23104,
        "temp.x86_pkg_temp": 71000,
        "cgroup.nr_throttled": 17,
        "cgroup.throttled": 903120,
    },
    "container-bare": {
        "mem.total": 16384000 * 1024,
        "mem.available": 14312304 * 1024,
        "mem.used": (16384000 - 14312304) * 1024,
    },
}
ABSENT = {
    "jetson-nano-jp451": ("temp.pmic", "cpu.clock_delivered"),
    "jetson-xavier-nx-jp512": ("throttle.", "temp.pmic"),
    "jetson-orin-nano-jp621": ("power.rail.sum",),
    "jetson-agx-orin-jp51": ("power.rail.NC", "power.input", "throttle."),
    "jetson-thor-jp71": ("gpu.util", "mem.gpu_shared"),
    "rpi5-bookworm": ("temp.cpu_thermal", "energy."),
    "rpi4-undervolt": ("power.", "energy."),
    "rpi3bplus-softlimit": ("power.", "energy."),
    "generic-x86-rapl": ("power.", "gpu."),
    "container-bare": ("temp.", "cpu.", "gpu.", "power.", "throttle.", "psi.", "fan.", "mode."),
}
TOTALS = {
    "jetson-nano-jp451": ("module_input", "measured"),
    "jetson-xavier-nx-jp512": ("module_input", "measured"),
    "jetson-orin-nano-jp621": ("module_input", "measured"),
    "jetson-agx-orin-jp51": ("sum_of_rails", "summed"),
    "jetson-thor-jp71": ("board_input", "measured"),
    "rpi5-bookworm": ("pmic_rails", "estimated"),
}


def look(tree: Tree) -> tuple[dict[str, SensorChannel], dict[str, Value]]:
    channels: dict[str, SensorChannel] = {}
    values: dict[str, Value] = {}
    for source in make_sources(tree, ("pmic",)):
        channels.update((channel.name, channel) for channel in source.probe().channels)
        values.update(source.read())
        source.close()
    return channels, values


@pytest.mark.parametrize("board", EXPECTED)
def test_a_board_reads_as_is_known_of_it(board: str) -> None:
    channels, values = look(open_tree(board, 0))
    assert {name: values.get(name) for name in EXPECTED[board]} == EXPECTED[board]
    assert [name for name in values if name.startswith(ABSENT[board])] == []
    total = channels.get("power.total")
    assert (None if total is None else (total.scope, total.method)) == TOTALS.get(board)


@pytest.mark.parametrize("board", EXPECTED)
def test_a_board_reads_the_same_from_files_on_a_disk(board: str, tmp_path: Path) -> None:
    recorded = look(open_tree(board, 0))
    assert look(unpack(read_bundle(_BUNDLES / f"{board}.bundle"), tmp_path)) == recorded
