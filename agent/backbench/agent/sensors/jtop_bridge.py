"""The process in which jetson-stats' own client runs: `python -m backbench.agent.sensors.jtop_bridge`.

It prints one JSON object a line: {"interval_s", "values": {channel: [unit, value or null]}} a sample, or {"error"} and
ends. Nothing of Backbench but this module imports jetson-stats.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PR_SET_PDEATHSIG = 1
_UNREADABLE_C = -256
_LARGEST_MHZ = 10_000
"""The kernel gives a GPU's clock in kHz, NVML in MHz, and jetson-stats either; no clock is as slow as 10 MHz."""


def main(arguments: list[str] | None = None) -> int:
    """Samples until the client fails or the parent ends; the exit status is 1 for an error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--socket", help="the service's socket, where it is not the usual one")
    parser.add_argument("--interval", type=float, default=1.0)
    options = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options.parent:
        return 1
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the client prints
    for message in _messages(options.socket, options.interval):
        out.write(json.dumps(message) + "\n")
        out.flush()
        if "error" in message:
            return 1
    return 0


def _messages(socket: str | None, interval_s: float) -> Iterator[dict[str, Any]]:
    try:
        from jtop import JtopException, jtop, service
    except ImportError:
        yield {"error": "jetson-stats is not installed; pip install 'backbench[jtop]' (AGPL-3.0)"}
        return
    if socket is not None:
        service.JTOP_PIPE = socket
    try:
        own_s = interval_s
        with jtop(interval=own_s) as client:
            own_s = max(interval_s, float(client.interval))
            if own_s == interval_s:
                yield from _samples(client, own_s)
                return
        # A client that is faster than the service is left without samples, and without a word.
        with jtop(interval=own_s) as client:
            yield from _samples(client, own_s)
    except JtopException as error:
        yield _refused(str(error))
    except (OSError, EOFError, KeyError, TypeError) as error:
        yield {"error": f"the jtop client failed: {type(error).__name__}: {error}"}


def _samples(client: Any, interval_s: float) -> Iterator[dict[str, Any]]:
    last = None
    while client.ok():
        uptime = client.uptime
        if uptime == last:
            continue  # the same sample again
        last = uptime
        yield {"interval_s": interval_s, "values": sample(client)}
    yield {"error": "the jtop service stopped giving samples; restart jtop.service"}


def sample(client: Any) -> dict[str, tuple[str, int | None]]:
    """Unit and value by channel of the client's newest sample. `.stats` is not used: it fails on some boards."""
    values: dict[str, tuple[str, int | None]] = {}
    for name, zone in _mapping(client.temperature).items():
        celsius = _number(_mapping(zone).get("temp"))
        known = celsius is not None and celsius > _UNREADABLE_C
        values[f"jtop.temp.{name.lower()}"] = ("mC", round(celsius * 1000) if known and celsius is not None else None)
    power = _mapping(client.power)
    for name, rail in _mapping(power.get("rail")).items():
        values[f"jtop.power.rail.{name}"] = ("mW", _integer(_mapping(rail).get("power")))
    values["jtop.power.total"] = ("mW", _integer(_mapping(power.get("tot")).get("power")))
    _of_gpu(_mapping(client.gpu), values)
    memory = _mapping(client.memory)
    used_kb = _integer(_mapping(memory.get("RAM")).get("used"))
    values["jtop.mem.used"] = ("B", None if used_kb is None else used_kb * 1024)
    emc_khz = _integer(_mapping(memory.get("EMC")).get("cur"))  # its load is 0 for ever on an Orin
    values["jtop.emc.clock"] = ("Hz", None if emc_khz is None else emc_khz * 1000)
    for name, fan in _mapping(client.fan).items():
        speeds, turns = (_mapping(fan).get(key) or [None] for key in ("speed", "rpm"))
        share = _number(speeds[0])
        values[f"jtop.fan.{name}.pwm"] = ("permille", None if share is None else round(share * 10))
        values[f"jtop.fan.{name}.rpm"] = ("rpm", _integer(turns[0]))
    return values


def _of_gpu(gpus: Mapping[str, Any], values: dict[str, tuple[str, int | None]]) -> None:
    gpu: Mapping[str, Any] = next((_mapping(each) for each in gpus.values()), {})
    load = _number(_mapping(gpu.get("status")).get("load"))
    clock = _number(_mapping(gpu.get("freq")).get("cur"))
    values["jtop.gpu.util"] = ("permille", None if load is None else round(load * 10))
    scale = 10**6 if clock is not None and clock < _LARGEST_MHZ else 1000
    values["jtop.gpu.clock"] = ("Hz", round(clock * scale) if clock else None)  # 0 is a clock that is gated


def _refused(words: str) -> dict[str, Any]:
    """The client's own words as one line with a remedy."""
    line = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", words).split())
    if "access" in line.lower():
        return {"error": "no permission for the jtop service; add the agent's user to group jtop", "denied": True}
    if "ismatch" in line:
        remedy = f"jetson-stats here is {_own_version()}: install the service's own version beside the agent"
        return {"error": f"{line[:200]}; {remedy}"}
    if "not active" in line or "service" in line.lower():
        return {"error": "the jtop service does not run; sudo systemctl start jtop.service"}
    return {"error": f"the jtop client says: {line[:200]}"}


def _own_version() -> str:
    try:
        return version("jetson-stats")
    except PackageNotFoundError:
        return "of an unknown version"


def _mapping(value: Any) -> Mapping[str, Any]:
    """A dictionary of the client's, or what it has with the same methods; empty for anything else."""
    return dict(value.items()) if hasattr(value, "items") else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


if __name__ == "__main__":
    sys.exit(main())
