"""What moves a device's numbers and can be chosen: limits of clocks, power mode, fan, swap, quotas.

They are read at a run's beginning and at its end and compared, so nothing that is measured is among them. What a
system does not show is not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from backbench.agent.sensors.reading import found
from backbench.agent.sensors.thermal import zone_name
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.trees import LiveTree, open_tree
from backbench.domain.errors import InvalidArgument

_CPUFREQ = "sys/devices/system/cpu/cpufreq"
_POLICY = ("scaling_governor", "scaling_driver", "scaling_min_freq", "scaling_max_freq")
_SWITCHES = {
    "cpu.no_turbo": "sys/devices/system/cpu/intel_pstate/no_turbo",
    "cpu.boost": f"{_CPUFREQ}/boost",
    "cpu.smt": "sys/devices/system/cpu/smt/active",
    "cpu.online": "sys/devices/system/cpu/online",
}
_GPUS = re.compile(r"sys/class/devfreq/(.*\.(gpu|gv11b|ga10b|gp10b)|gpu-gpc-0)/max_freq")
_GPU = ("governor", "min_freq", "max_freq")
_CHIPS = ("ina3221", "ina238")
_AVERAGING = ("samples", "update_interval")
_FAN_MODES = {"0": "full", "1": "manual"}
_CHANGING_TRIPS = ("x86_pkg_temp",)
"""Programs set these again and again to be woken at the next degree."""
_CONTAINERS = {".dockerenv": "docker", "run/.containerenv": "podman"}
_GROUP_LIMITS = ("cpu.max", "memory.max", "memory.high", "cpuset.cpus")
_TEXT_LENGTH = 400


def conditions_of(simulation: str, epoch_ns: int) -> Mapping[str, str]:
    """The conditions of this machine, or of a recording whose timeline started at `epoch_ns`.

    Never raises: of a recording whose file was taken away there are none.
    """
    try:
        tree = open_tree(simulation, epoch_ns)
    except InvalidArgument:
        return {}
    try:
        return read_conditions(tree)
    finally:
        tree.close()


def read_conditions(tree: Tree) -> Mapping[str, str]:
    """Everything that is known, by name."""
    conditions: dict[str, str] = {"memory.page_bytes": str(os.sysconf("SC_PAGE_SIZE"))}
    for part in (_processors, _gpu, _power_mode, _averaging, _trips, _fan, _swap):
        conditions.update(part(tree))
    # Frames run on this machine even where its telemetry is a recording.
    machine = LiveTree() if tree.simulated else tree
    try:
        conditions.update(_confinement(machine))
    finally:
        if machine is not tree:
            machine.close()
    return {name: value for name, value in conditions.items() if value}


def text(tree: Tree, path: str) -> str:
    """What a file says, without the blanks around it; "" where it cannot be read."""
    try:
        content = tree.read(path)
    except OSError:
        return ""
    return content.replace(b"\0", b" ").decode("utf-8", "replace").strip()


def _processors(tree: Tree) -> Iterator[tuple[str, str]]:
    limits: list[tuple[str, str]] = []
    for file in _POLICY:
        values = {path.split("/")[-2]: text(tree, path) for path in found(tree, f"{_CPUFREQ}/policy*/{file}")}
        yield f"cpu.{file}", _joined(values)
    for policy in found(tree, f"{_CPUFREQ}/policy*"):
        limits.append((text(tree, f"{policy}/scaling_min_freq"), text(tree, f"{policy}/scaling_max_freq")))
    limits += [(text(tree, f"{folder}/min_freq"), text(tree, f"{folder}/max_freq")) for folder in _gpu_folders(tree)]
    known = [(low, high) for low, high in limits if low and high]
    if known:
        yield "clocks.pinned", "yes" if all(low == high for low, high in known) else "no"
    for name, path in _SWITCHES.items():
        yield name, text(tree, path)


def _gpu(tree: Tree) -> Iterator[tuple[str, str]]:
    folders = _gpu_folders(tree)
    for file in _GPU:
        yield f"gpu.{file}", _joined({folder.split("/")[-1]: text(tree, f"{folder}/{file}") for folder in folders})


def _gpu_folders(tree: Tree) -> list[str]:
    paths = found(tree, "sys/class/devfreq/*/max_freq")
    return [path.removesuffix("/max_freq") for path in paths if _GPUS.fullmatch(path)]


def _power_mode(tree: Tree) -> Iterator[tuple[str, str]]:
    """A Jetson's, from the files that `nvpmodel` keeps; the command is asked where they are missing."""
    mode = re.match(r"pmode:(\d{1,9})", text(tree, "var/lib/nvpmodel/status"))
    if mode is not None:
        number = str(int(mode[1]))
        named = re.search(rf"POWER_MODEL\s+ID={number}\s+NAME=(\S+)", text(tree, "etc/nvpmodel.conf"))
        yield "power_mode.id", number
        yield "power_mode.name", named[1] if named else ""
        return
    if not found(tree, "etc/nv_tegra_release"):
        return
    try:
        answer = tree.run(["nvpmodel", "-q"]).decode("utf-8", "replace")
    except OSError:
        return
    if (said := re.search(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)\s*$", answer)) is not None:
        yield "power_mode.id", said[2]
        yield "power_mode.name", said[1]


def _averaging(tree: Tree) -> Iterator[tuple[str, str]]:
    """Over how much a chip averages a power."""
    chips = [(path.removesuffix("/name"), text(tree, path)) for path in found(tree, "sys/class/hwmon/hwmon*/name")]
    for chip in _CHIPS:
        for file in _AVERAGING:
            values = {text(tree, f"{folder}/{file}") for folder, name in chips if name == chip}
            yield f"{chip}.{file}", ",".join(sorted(values - {""}))


def _trips(tree: Tree) -> Iterator[tuple[str, str]]:
    for path in found(tree, "sys/class/thermal/thermal_zone*/type"):
        kind, folder = text(tree, path), path.removesuffix("/type")
        if not kind or kind in _CHANGING_TRIPS:
            continue
        trips: list[tuple[int, str]] = []
        for trip in found(tree, f"{folder}/trip_point_*_temp"):
            value, what = text(tree, trip), text(tree, trip.removesuffix("temp") + "type")
            if re.fullmatch(r"\d{1,9}", value):
                trips.append((int(value), what))
        yield f"trip.{zone_name(kind)}", ", ".join(f"{value} {what}".strip() for value, what in sorted(trips))


def _fan(tree: Tree) -> Iterator[tuple[str, str]]:
    paths = found(tree, "sys/class/hwmon/hwmon*/pwm1_enable")
    modes = {text(tree, path.removesuffix("pwm1_enable") + "name"): text(tree, path) for path in paths}
    yield "fan.mode", _joined({chip: _FAN_MODES.get(mode, "automatic") for chip, mode in modes.items() if mode})
    if automatic := text(tree, "sys/devices/pwm-fan/temp_control"):
        yield "fan.mode", "automatic" if automatic == "1" else "manual"
    profile = re.search(r"FAN_DEFAULT_PROFILE\s+(\w+)", text(tree, "etc/nvfancontrol.conf"))
    yield "fan.default_profile", profile[1] if profile else ""


def _swap(tree: Tree) -> Iterator[tuple[str, str]]:
    size = re.search(r"^SwapTotal:\s*(\d{1,15} kB)", text(tree, "proc/meminfo"), re.MULTILINE)
    yield "memory.swap", size[1] if size else ""
    lines = text(tree, "proc/swaps").splitlines()[1:]
    yield "memory.swap_devices", ",".join(sorted(line.split()[0] for line in lines if line.split()))[:_TEXT_LENGTH]


def _confinement(tree: Tree) -> Iterator[tuple[str, str]]:
    """The quotas that the agent runs under, and whether it is in a container."""
    own = re.search(r"^0::/(.*)$", text(tree, "proc/self/cgroup"), re.MULTILINE)
    if own is not None:
        parts = [part for part in own[1].split("/") if part]
        folders = ["/".join(("sys/fs/cgroup", *parts[:depth])) for depth in range(len(parts), -1, -1)]
        for file in _GROUP_LIMITS:
            limits = (text(tree, f"{folder}/{file}") for folder in folders)
            yield f"cgroup.{file}", next((limit for limit in limits if limit and not limit.startswith("max")), "")
    kinds = [kind for path, kind in _CONTAINERS.items() if found(tree, path)]
    yield "container", text(tree, "run/systemd/container") or next(iter(kinds), "")


def _joined(values: Mapping[str, str]) -> str:
    """One value where all are equal, else each with its place."""
    known = {place: value for place, value in values.items() if value}
    if len(set(known.values())) == 1 and len(known) == len(values):
        return next(iter(known.values()))
    return ",".join(f"{place}={value}" for place, value in known.items())[:_TEXT_LENGTH]
