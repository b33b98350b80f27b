"""Records this machine as a bundle: the files that sources and identity read, without what would tell whose it is."""

from __future__ import annotations

import datetime
import errno
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backbench.agent.sensors.base import unread
from backbench.agent.sensors.bundle import Bundle, Content, rendered_file
from backbench.agent.sensors.reading import found
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.trees import command_path
from backbench.domain.errors import InvalidArgument

_CPUFREQ = "sys/devices/system/cpu/cpufreq"
_ZONES = "sys/class/thermal/thermal_zone*"
_HWMON = "sys/class/hwmon/hwmon*"
_INA3221X = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
FILES = (
    "proc/device-tree/model", "proc/device-tree/compatible", "proc/device-tree/serial-number",
    "proc/cpuinfo", "proc/meminfo", "proc/swaps", "proc/stat", "proc/cmdline", "proc/sys/kernel/osrelease",
    "proc/pressure/cpu", "proc/pressure/memory", "proc/pressure/io",
    "etc/os-release", "etc/nv_tegra_release", "etc/nvpmodel.conf", "etc/nvfancontrol.conf", "var/lib/nvpmodel/status",
    "sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name", "sys/class/dmi/id/bios_version",
    f"{_ZONES}/type", f"{_ZONES}/temp", f"{_ZONES}/trip_point_*_temp", f"{_ZONES}/trip_point_*_type",
    f"{_ZONES}/trip_point_*_hyst",
    "sys/class/thermal/cooling_device*/type", "sys/class/thermal/cooling_device*/cur_state",
    "sys/class/thermal/cooling_device*/max_state",
    f"{_HWMON}/name", f"{_HWMON}/samples", f"{_HWMON}/update_interval", f"{_HWMON}/rpm", f"{_HWMON}/in*_*",
    f"{_HWMON}/curr*_*", f"{_HWMON}/power*_*", f"{_HWMON}/temp*_*", f"{_HWMON}/fan*_input", f"{_HWMON}/oc*_*",
    f"{_HWMON}/pwm[0-9]", f"{_HWMON}/pwm[0-9]_enable",
    f"{_INA3221X}/rail_name_*", f"{_INA3221X}/in_voltage*_input", f"{_INA3221X}/in_current*_input",
    f"{_INA3221X}/in_power*_input", f"{_INA3221X}/warn_current_limit_*", f"{_INA3221X}/crit_current_limit_*",
    "sys/devices/pwm-fan/target_pwm", "sys/devices/pwm-fan/cur_pwm", "sys/devices/pwm-fan/temp_control",
    "sys/class/devfreq/*/governor", "sys/class/devfreq/*/*_freq", "sys/class/devfreq/*/device/load",
    "sys/devices/gpu.0/load", "sys/devices/17000000.*/load", "sys/devices/platform/17000000.*/load",
    "sys/devices/platform/bus@0/17000000.gpu/load", "sys/devices/platform/gpu.0/load",
    "sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/kernel/debug/clk/override.emc/clk_rate",
    f"{_CPUFREQ}/policy*/*_freq", f"{_CPUFREQ}/policy*/scaling_governor", f"{_CPUFREQ}/policy*/scaling_driver",
    f"{_CPUFREQ}/policy*/scaling_available_governors", f"{_CPUFREQ}/boost", "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/smt/active", "sys/devices/system/cpu/intel_pstate/no_turbo",
    "sys/devices/system/cpu/cpu*/thermal_throttle/*", "sys/devices/system/cpu/cpu*/topology/physical_package_id",
    "sys/class/powercap/intel-rapl:*/name", "sys/class/powercap/intel-rapl:*/energy_uj",
    "sys/class/powercap/intel-rapl:*/max_energy_range_uj",
    "sys/devices/platform/soc/soc:firmware/get_throttled", "sys/devices/platform/soc@*/*firmware/get_throttled",
    "sys/fs/cgroup/cgroup.controllers",
)  # fmt: skip
"""What is recorded, by pattern."""
COMMANDS = (
    ("vcgencmd", "version"), ("vcgencmd", "get_throttled"), ("vcgencmd", "measure_temp"),
    ("vcgencmd", "measure_clock", "arm"), ("vcgencmd", "measure_volts", "core"), ("vcgencmd", "pmic_read_adc"),
    ("nvpmodel", "-q"),
)  # fmt: skip
_LINES = ("tegrastats", "--interval", "1000")
_FIRST_LINE_S = 3.0
_COMMAND_S = 5.0
_KEPT_LINES = {
    "proc/cpuinfo": re.compile(r"(processor|model name|Hardware|Model|CPU (implementer|part))\s*:"),
    "proc/stat": re.compile(r"cpu"),
    "etc/os-release": re.compile(r"(PRETTY_NAME|NAME|ID|VERSION_ID)="),
    "etc/nvpmodel.conf": re.compile(r"\s*<\s*(POWER_MODEL\s+ID=\d+|PM_CONFIG\s)"),
    "etc/nvfancontrol.conf": re.compile(r"\s*<?\s*FAN_DEFAULT_\w+\s"),
}
"""Of these files the lines that anything reads."""
_KEPT_PARAMETERS = re.compile(
    r"(psi|cgroup_(enable|disable)|isolcpus|nohz_full|rcu_nocbs|nosmt|mitigations|cpufreq\.\w+|intel_pstate|maxcpus)\b"
)
_SERIAL_FILE = "proc/device-tree/serial-number"
_SERIAL_FILES = (_SERIAL_FILE, "sys/class/dmi/id/product_serial", "sys/class/dmi/id/product_uuid")
_PERSONAL = (
    (re.compile(r"\b[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b"), "00000000-0000-0000-0000-000000000000"),
    (re.compile(r"\b([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b"), "00:00:00:00:00:00"),
    (re.compile(r"\bPARTUUID=[0-9A-Fa-f-]+"), "PARTUUID=00000000-00"),
    (re.compile(r"\b(S/?N|[Ss]erial( [Nn]umber)?)(\s*[:=]\s*)\S+"), r"\1\g<3>0"),
)
_OWN_FOLDER = re.compile(r"^/(?!dev/zram)\S+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The bundle, and the lines that its maker should read: what is missing in it, and why."""

    bundle: Bundle
    notes: tuple[str, ...]


def record(tree: Tree, maker: str, label: str = "") -> Recorded:
    """Read everything once. Never raises for what cannot be read: that is recorded too."""
    hide = _hider(tree)
    files: dict[str, Content] = {}
    notes: list[str] = []
    for path, ask in (*_files(tree), *_own_group(tree), *_commands(tree)):
        try:
            content: Content = _without_blank_end(hide(path, ask().decode("utf-8", "surrogateescape")))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                continue
            content = unread(error)
            notes.append(f"{path}: {content.code}")
        try:
            rendered_file(path, content)
        except InvalidArgument as error:
            notes.append(f"left out: {error.message}")
            continue
        files[path] = content
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    provenance = f"source: recorded on the device by {maker} on {today}, serial numbers removed"
    label = " ".join(label.split())
    return Recorded(Bundle("board", (f"{provenance}; {label}" if label else provenance,), files), tuple(notes))


def _files(tree: Tree) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for pattern in FILES:
        for path in found(tree, pattern):
            yield path, lambda path=path: tree.read(path)  # type: ignore[misc]


def _own_group(tree: Tree) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The agent's own control group (version 2), under a name that tells nothing."""
    own = re.search(r"^0::(/.+)$", _read_text(tree, "proc/self/cgroup"), re.MULTILINE)
    if own is not None and not tree.simulated:
        path = f"sys/fs/cgroup{own[1]}/cpu.stat"
        yield "sys/fs/cgroup/agent/cpu.stat", lambda: tree.read(path)


def _commands(tree: Tree) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for argv in COMMANDS:
        yield command_path(argv), lambda argv=argv: tree.run(argv, _COMMAND_S)  # type: ignore[misc]
    yield command_path(_LINES[:1]), lambda: _first_line(tree)


def _first_line(tree: Tree) -> bytes:
    stream = tree.stream(_LINES)
    until = time.monotonic() + _FIRST_LINE_S
    try:
        while time.monotonic() < until:
            if (line := stream.latest()) is not None:
                return line + b"\n"
            time.sleep(0.02)
    finally:
        stream.close()
    raise OSError(errno.ETIMEDOUT, "no line came")


def _hider(tree: Tree) -> Callable[[str, str], str]:
    """What takes everything personal out of a file's text."""
    serials = {_read_text(tree, path) for path in _SERIAL_FILES}
    known = sorted((serial for serial in serials if len(serial) >= 6), key=len, reverse=True)
    host = re.compile(rf"\b{re.escape(socket.gethostname())}\b")

    def hide(path: str, text: str) -> str:
        if path == _SERIAL_FILE:
            return re.sub(r"[0-9A-Za-z]", "0", text)
        if (kept := _KEPT_LINES.get(path)) is not None:
            text = "".join(f"{line}\n" for line in text.splitlines() if kept.match(line))
        if path == "proc/cmdline":
            text = " ".join(word for word in text.split() if _KEPT_PARAMETERS.match(word)) + "\n"
        if path == "proc/swaps":
            text = _OWN_FOLDER.sub("/swap", text)
        for serial in known:
            text = text.replace(serial, "0" * len(serial))
        for pattern, instead in _PERSONAL:
            text = pattern.sub(instead, text)
        return host.sub("host", text) if path.startswith("cmd/") else text

    return hide


def _read_text(tree: Tree, path: str) -> str:
    try:
        return tree.read(path).decode("utf-8", "replace").strip("\0 \n")
    except OSError:
        return ""


def _without_blank_end(text: str) -> bytes:
    """As a bundle holds it: each line, the last one too, with its end."""
    content = text.encode("utf-8", "surrogateescape").replace(b"\r\n", b"\n")
    if content.endswith((b"\n", b"\0")) or not content:
        return content
    return content + b"\n"
