"""Who this device is."""

from __future__ import annotations

import contextlib
import hmac
import os
import platform
import re
import secrets
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil

from backbench.agent.conditions import read_conditions, text
from backbench.agent.jetpack import jetpack_of, l4t_version
from backbench.agent.registry import Registry
from backbench.agent.sensors.tree import Tree
from backbench.agent.sensors.trees import LiveTree
from backbench.domain.device import DeviceIdentity

_SERIAL_DIGITS = 16
_KEY_BYTES = 32
_FAMILIES = {
    "tegra210": ("jetson-nano", "5.3"),
    "tegra186": ("jetson-tx2", "6.2"),
    "tegra194": ("jetson-xavier", "7.2"),
    "tegra234": ("jetson-orin", "8.7"),
    "tegra264": ("jetson-thor", "11.0"),
}
"""Family and CUDA compute capability by system on a chip."""
_TX1 = "p2371"
_RASPBERRY_PI = "raspberry-pi"
_GENERIC = "generic"
_COMMAND_S = 2.0
_TEXT_LENGTH = 200


def read_identity(tree: Tree, key: bytes) -> DeviceIdentity:
    """The device behind this agent; what is not there stays empty. `key` is what its serial number is hidden by.

    Of a recorded board, what the recording does not have is this machine's, as it is here that frames run.
    """
    machine = LiveTree() if tree.simulated else tree
    compatible = _compatible(tree)
    soc = compatible[-1].rpartition(",")[2] if compatible else ""
    family, cuda = _family(compatible, soc)
    l4t = l4t_version(text(tree, "etc/nv_tegra_release")) or (_l4t_by_package(tree) if cuda else "")
    try:
        return DeviceIdentity(
            board=_line(tree, "proc/device-tree/model") or _dmi(tree),
            module=_module(compatible),
            soc=soc or _processor(tree) or _processor(machine),
            serial_hash=_serial_hash(tree, key),
            machine=platform.machine(),
            cpu_count=len(os.sched_getaffinity(0)),
            memory_bytes=_memory_bytes(tree),
            os=_system(tree) or _system(machine) or platform.system(),
            kernel=_line(tree, "proc/sys/kernel/osrelease") or platform.release(),
            platform_release=f"L4T {l4t}" if l4t else "",
            cuda_architecture=cuda,
            conditions=read_conditions(tree),
            hostname=socket.gethostname(),
            family=family,
            jetpack=jetpack_of(l4t),
            firmware=_firmware(tree, family),
        )
    finally:
        if machine is not tree:
            machine.close()


def kept_device_id(root: Path, registry: Registry) -> str:
    """The id of the agent with this data folder, made once.

    Certificates name it, so it is kept twice: in the registry and in a file beside it.
    """
    path = root / "device-id"
    kept = _kept_text(path)
    if re.fullmatch("[0-9a-f]{32}", kept) is None:
        kept = registry.setting("device_id") or uuid.uuid4().hex
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.touch(0o600)
            path.write_text(f"{kept}\n", encoding="ascii")
    if registry.setting("device_id") != kept:
        registry.put_setting("device_id", kept)
    return kept


def kept_serial_key(root: Path) -> bytes:
    """The key that this agent hides its serial number by, made once: without it, all numbers could be tried out."""
    path = root / "serial-key"
    with contextlib.suppress(OSError):
        if len(key := path.read_bytes()) == _KEY_BYTES:
            return key
    key = secrets.token_bytes(_KEY_BYTES)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(key)
    return key


def _kept_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return ""


def physical_cores() -> int:
    """Physical cores that this process may use: with two threads a core, half of its processors."""
    usable = len(os.sched_getaffinity(0))
    cores, threads = psutil.cpu_count(logical=False), psutil.cpu_count()
    if not cores or not threads:
        return usable
    return max(1, usable * cores // threads)


def default_threads() -> int:
    """Threads when none are asked for: the physical cores less one, which is left to everything else."""
    return max(1, physical_cores() - 1)


def _line(tree: Tree, path: str) -> str:
    return " ".join(text(tree, path).split())[:_TEXT_LENGTH]


def _compatible(tree: Tree) -> list[str]:
    """What a device tree says the board is, the most special name first; empty on a PC."""
    return text(tree, "proc/device-tree/compatible").split()


def _family(compatible: Sequence[str], soc: str) -> tuple[str, str]:
    if any(_TX1 in name for name in compatible):
        return "jetson-tx1", "5.3"
    if any(name.startswith("raspberrypi,") for name in compatible):
        return _RASPBERRY_PI, ""
    return _FAMILIES.get(soc, (_GENERIC, ""))


def _module(compatible: Sequence[str]) -> str:
    """The number of the module that sits on a Jetson's carrier board."""
    found = (re.search(r"\+(p\d{4}-\d{4})", name) for name in compatible)
    return next((each[1] for each in found if each), "")


def _serial_hash(tree: Tree, key: bytes) -> str:
    serial = _line(tree, "proc/device-tree/serial-number") or _line(tree, "sys/class/dmi/id/product_uuid")
    return hmac.new(key, serial.encode(), "sha256").hexdigest()[:_SERIAL_DIGITS] if serial else ""


def _memory_bytes(tree: Tree) -> int:
    size = re.search(r"^MemTotal:\s*(\d{1,12}) kB", text(tree, "proc/meminfo"), re.MULTILINE)
    return int(size[1]) * 1024 if size else psutil.virtual_memory().total


def _dmi(tree: Tree) -> str:
    parts = (_line(tree, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    return " ".join(part for part in parts if part)


def _processor(tree: Tree) -> str:
    for line in text(tree, "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "hardware"):
            return value.strip()[:_TEXT_LENGTH]
    return ""


def _system(tree: Tree) -> str:
    pairs = (line.partition("=") for line in text(tree, "etc/os-release").splitlines())
    return next((value.strip('"')[:_TEXT_LENGTH] for name, _, value in pairs if name == "PRETTY_NAME"), "")


def _l4t_by_package(tree: Tree) -> str:
    """In a container /etc/nv_tegra_release may be hidden while the package is there."""
    answer = _answer(tree, ["dpkg-query", "--showformat=${Version}", "--show", "nvidia-l4t-core"])
    found = re.match(r"\d{1,4}(\.\d{1,4}){1,2}(?=-|$)", answer)
    return found[0] if found else ""


def _firmware(tree: Tree, family: str) -> str:
    if family == _RASPBERRY_PI:
        answer = _answer(tree, ["vcgencmd", "version"])
        version, date = re.search(r"^version (\w+)", answer, re.MULTILINE), answer.split("\n", 1)[0].strip()
        return f"{version[1]} of {date}"[:_TEXT_LENGTH] if version else ""
    return _line(tree, "sys/class/dmi/id/bios_version")


def _answer(tree: Tree, argv: Sequence[str]) -> str:
    try:
        return tree.run(argv, _COMMAND_S).decode("utf-8", "replace")
    except OSError:
        return ""
