"""Who this device is, and the conditions that move its numbers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil

from backbench.agent.registry import Registry
from backbench.domain.device import DeviceIdentity

_ROOT = Path("/")


def read_identity(root: Path = _ROOT) -> DeviceIdentity:
    """The device behind this agent, read below `root`; what is not there stays empty."""
    serial = _text(root / "proc/device-tree/serial-number") or _text(root / "sys/class/dmi/id/product_uuid")
    release = _release(root)
    return DeviceIdentity(
        board=_text(root / "proc/device-tree/model") or _dmi(root),
        soc=_processor(root),
        serial_hash=hashlib.sha256(serial.encode()).hexdigest()[:16] if serial else "",
        machine=platform.machine(),
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        os=release.get("PRETTY_NAME", platform.system()),
        kernel=platform.release(),
        platform_release=_text(root / "etc/nv_tegra_release").split("\n", maxsplit=1)[0],
        conditions=read_conditions(root),
        hostname=socket.gethostname(),
    )


def kept_device_id(root: Path, registry: Registry) -> str:
    """The id of the agent with this data folder, made once.

    Certificates name it, so it is kept twice: in the registry and in a file beside it.
    """
    path = root / "device-id"
    kept = _text(path)
    if re.fullmatch("[0-9a-f]{32}", kept) is None:
        kept = registry.setting("device_id") or uuid.uuid4().hex
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.touch(0o600)
            path.write_text(f"{kept}\n", encoding="ascii")
    if registry.setting("device_id") != kept:
        registry.put_setting("device_id", kept)
    return kept


def read_conditions(root: Path = _ROOT) -> Mapping[str, str]:
    """Governors, clock limits, turbo, thread siblings: whatever of these the system shows."""
    conditions: dict[str, str] = {}
    for name in ("scaling_governor", "scaling_driver", "scaling_min_freq", "scaling_max_freq"):
        found = {_text(path) for path in root.glob(f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/{name}")}
        if found:
            conditions[f"cpu.{name}"] = ",".join(sorted(found))
    for key, path in {
        "cpu.no_turbo": "sys/devices/system/cpu/intel_pstate/no_turbo",
        "cpu.boost": "sys/devices/system/cpu/cpufreq/boost",
        "cpu.smt": "sys/devices/system/cpu/smt/active",
        "cpu.online": "sys/devices/system/cpu/online",
    }.items():
        if text := _text(root / path):
            conditions[key] = text
    return conditions


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


def _text(path: Path) -> str:
    try:
        return path.read_bytes().rstrip(b"\0").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _dmi(root: Path) -> str:
    parts = (_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return " ".join(part for part in parts if part)


def _processor(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "hardware"):
            return value.strip()
    return ""


def _release(root: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in _text(root / "etc/os-release").splitlines())
    return {name: value.strip('"') for name, _, value in pairs if name}
