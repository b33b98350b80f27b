"""Clocks of processors, GPU and memory, the GPU's load, and the policies in force."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.agent.sensors.reading import (
    NO_NUMBER,
    OUT_OF_RANGE,
    Reading,
    content,
    first_found,
    found,
    number,
    read_number,
)
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

PINNED = "mode.clocks_pinned"
EMC_CLOCKS = (
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "sys/class/devfreq/bwmgr/cur_freq",
    "sys/kernel/debug/clk/override.emc/clk_rate",
)
"""Where the kernel tells the clock of a Jetson's memory."""
_POLICIES = "sys/devices/system/cpu/cpufreq/policy*"
_CLOCKS = {
    "cpu.clock": ("scaling_cur_freq", "requested"),
    "cpu.clock_min": ("scaling_min_freq", "limit"),
    "cpu.clock_max": ("scaling_max_freq", "limit"),
}
_GPU_CLOCKS = {"gpu.clock": "cur_freq", "gpu.clock_min": "min_freq", "gpu.clock_max": "max_freq"}
_GPUS = (r"57000000\.gpu", r"17000000\.(gv11b|ga10b|gp10b|gpu)", r"gpu-gpc-0", r".*\.gpu")
_LOADS = (
    "sys/devices/gpu.0/load",
    "sys/devices/17000000.*/load",
    "sys/devices/platform/17000000.*/load",
    "sys/devices/platform/bus@0/17000000.gpu/load",
    "sys/devices/platform/gpu.0/load",
)
_POWER_MODE = "var/lib/nvpmodel/status"
_MODE = re.compile(rb"\s*pmode:(\d{1,9})\s*(fmode:.*)?", re.DOTALL)
_KHZ = 1000
_GATED = Unread("EAGAIN")
"""What gated hardware answers elsewhere; some drivers show a clock of 0 instead."""


class Clocks:
    """Requested clocks: neither they nor the GPU's show what the hardware holds back by itself."""

    name = "freq"
    rate_hz = 10.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._readings: dict[str, Reading] = {}
        self._limits: tuple[tuple[str, str], ...] = ()

    def probe(self) -> Coverage:
        """Every policy, the GPU, the memory's clock, and the power mode where a file tells it."""
        readings = (*_processors(self._tree), *_gpu(self._tree), *_others(self._tree))
        self._readings = {reading.channel.name: reading for reading in readings}
        self._limits = tuple(
            (low, high)
            for low in self._readings
            if "clock_min" in low and (high := low.replace("clock_min", "clock_max")) in self._readings
        )
        channels = [reading.channel for reading in readings]
        if self._limits:
            scope = "processors and GPU" if any(low.startswith("gpu") for low, _ in self._limits) else "processors"
            channels.append(SensorChannel(PINNED, "flag", "cpufreq, devfreq", scope=scope, kind="state"))
        if not channels:
            return Coverage.absent("the kernel shows no clocks here, as in most virtual machines and containers")
        return Coverage(tuple(channels))

    def read(self) -> Mapping[str, Value]:
        """All of them; whether clocks are pinned is told from the limits of the same read."""
        values = {name: reading.ask() for name, reading in self._readings.items()}
        if self._limits:
            values[PINNED] = _pinned([(values[low], values[high]) for low, high in self._limits])
        return values

    def close(self) -> None:
        """Nothing is held."""


class DeliveredClocks:
    """Measured clocks of the processors. On a Jetson reading one keeps it busy for up to half a millisecond.

    So it is a source of its own, with a low rate; most kernels let root alone read it.
    """

    name = "delivered"
    rate_hz = 1.0

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._paths: dict[str, str] = {}

    def probe(self) -> Coverage:
        """Every policy that has a measured clock."""
        self._paths = {
            f"cpu.clock_delivered.{_policy(path)}": path for path in found(self._tree, f"{_POLICIES}/cpuinfo_cur_freq")
        }
        if not self._paths:
            return Coverage.absent("this kernel shows requested clocks of processors alone")
        return Coverage(tuple(self._channel(name, path) for name, path in self._paths.items()))

    def read(self) -> Mapping[str, Value]:
        """The clock of every policy."""
        return {name: _clock_hz(self._tree, path, _KHZ) for name, path in self._paths.items()}

    def close(self) -> None:
        """Nothing is held."""

    def _channel(self, name: str, path: str) -> SensorChannel:
        denied = _clock_hz(self._tree, path, _KHZ) in (Unread("EACCES"), Unread("EPERM"))
        reason = "root alone may read the measured clock; run the agent as root" if denied else ""
        return SensorChannel(
            name, "Hz", "cpuinfo_cur_freq", _policy(path), "measured", available=not denied, reason=reason
        )


def _processors(tree: Tree) -> Iterator[Reading]:
    for name, (file, method) in _CLOCKS.items():
        for path in found(tree, f"{_POLICIES}/{file}"):
            policy = _policy(path)
            channel = SensorChannel(f"{name}.{policy}", "Hz", file, scope=policy, method=method)
            yield _clock(tree, channel, path, _KHZ)


def _gpu(tree: Tree) -> Iterator[Reading]:
    folders = [path.removesuffix("/cur_freq") for path in found(tree, "sys/class/devfreq/*/cur_freq")]
    named = (folder for pattern in _GPUS for folder in folders if re.fullmatch(pattern, folder.rpartition("/")[2]))
    folder = next(named, "")
    if folder:
        for name, file in _GPU_CLOCKS.items():
            path = f"{folder}/{file}"
            if found(tree, path):
                method = "requested" if file == "cur_freq" else "limit"
                yield _clock(tree, SensorChannel(name, "Hz", "devfreq", scope="gpu", method=method), path)
    load = first_found(tree, (f"{folder}/device/load", *_LOADS) if folder else _LOADS)
    if load is not None:
        channel = SensorChannel("gpu.util", "permille", "load", scope="gpu", method="average")
        yield Reading(channel, lambda: _load_permille(tree, load))


def _others(tree: Tree) -> Iterator[Reading]:
    emc = first_found(tree, EMC_CLOCKS)
    if emc is not None:
        yield _clock(tree, SensorChannel("emc.clock", "Hz", f"/{emc}", scope="memory", method="requested"), emc)
    if found(tree, _POWER_MODE):
        channel = SensorChannel("mode.power", "id", "nvpmodel", scope="board", kind="state")
        yield Reading(channel, lambda: _power_mode(tree))


def _clock(tree: Tree, channel: SensorChannel, path: str, times: int = 1) -> Reading:
    return Reading(channel, lambda: _clock_hz(tree, path, times))


def _clock_hz(tree: Tree, path: str, times: int = 1) -> Value:
    value = read_number(tree, path, times)
    if isinstance(value, Unread) or value > 0:
        return value
    return _GATED if value == 0 else OUT_OF_RANGE


def _load_permille(tree: Tree, path: str) -> Value:
    value = read_number(tree, path)
    return value if isinstance(value, Unread) or 0 <= value <= 1000 else OUT_OF_RANGE


def _power_mode(tree: Tree) -> Value:
    text = content(tree, _POWER_MODE)
    if isinstance(text, Unread):
        return text
    mode = _MODE.fullmatch(text)
    return NO_NUMBER if mode is None else number(mode[1])


def _pinned(limits: list[tuple[Value, Value]]) -> Value:
    """1 if every clock's limits are equal; one pair that differs is enough to know that they are not."""
    unknown = [value for pair in limits for value in pair if isinstance(value, Unread)]
    if any(low != high for low, high in limits if not isinstance(low, Unread) and not isinstance(high, Unread)):
        return 0
    return unknown[0] if unknown else 1


def _policy(path: str) -> str:
    return path.split("/")[-2]
