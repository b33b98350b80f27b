"""The sources of telemetry of this agent, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backbench.agent.sensors.activity import Activity
from backbench.agent.sensors.base import Source
from backbench.agent.sensors.freq import Clocks, DeliveredClocks
from backbench.agent.sensors.hwmon import Drives, HardwareMonitors
from backbench.agent.sensors.jtop import Jtop
from backbench.agent.sensors.nvml import Nvml
from backbench.agent.sensors.pmic import Pmic
from backbench.agent.sensors.powercap import PowerCap
from backbench.agent.sensors.proc import System
from backbench.agent.sensors.tegrastats import Tegrastats
from backbench.agent.sensors.thermal import ThermalZones
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.vcio import Firmware

SOURCES: dict[str, Callable[[Tree], Source]] = {
    "proc": System,
    "thermal": ThermalZones,
    "hwmon": HardwareMonitors,
    "freq": Clocks,
    "delivered": DeliveredClocks,
    "vcio": Firmware,
    "nvml": Nvml,
    "powercap": PowerCap,
    "drives": Drives,
    "psutil": Activity,
}
"""Those that are always read."""
EXTRA_SOURCES: dict[str, Callable[[Tree], Source]] = {
    "pmic": Pmic,
    "tegrastats": Tegrastats,
    "jtop": Jtop,
}
"""Those whose reading costs the device something; read where they are asked for."""


def make_sources(tree: Tree, extra: Sequence[str] = ()) -> tuple[Source, ...]:
    """Every source that is always read, and the named ones of the others; none of them is probed yet."""
    named = {name: make for name, make in EXTRA_SOURCES.items() if name in extra}
    return tuple(make(tree) for make in (*SOURCES.values(), *named.values()))
