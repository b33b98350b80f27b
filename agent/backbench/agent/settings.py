"""How an agent is started."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from pathlib import Path

from backbench.domain.device import Limits
from backbench.domain.errors import AddressUnusable, InvalidArgument

DEFAULT_PORT = 50061
_METRICS_PORT = 9464


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What the holder of one certificate may do; users of the device itself are not limited."""

    concurrent: int = 64
    per_second: float = 200.0
    burst: int = 400


@dataclass(frozen=True, slots=True)
class Settings:
    """Where an agent listens, where it keeps its data, and what it refuses to exceed.

    Beyond loopback it speaks TLS, on loopback with `tls`; `insecure_plaintext` is plain text everywhere. `simulate` is
    the recorded board whose telemetry is replayed, as `resolve_simulation` gives it; "" is this device.
    """

    listen: str
    data_dir: Path
    tls: bool = False
    insecure_plaintext: bool = False
    limits: Limits = field(default_factory=Limits)
    call_limits: CallLimits = field(default_factory=CallLimits)
    upload_stall_s: float = 60.0
    metrics_listen: str | None = None
    insecure_metrics: bool = False
    allow_set_clocks: bool = False
    clocks_root: Path = Path("/")
    simulate: str = ""


def uses_tls(settings: Settings) -> bool:
    """Whether the agent speaks TLS. Raises InvalidArgument or AddressUnusable for an address that cannot be."""
    host, _ = _host_and_port("--listen", settings.listen, DEFAULT_PORT)
    if settings.tls and settings.insecure_plaintext:
        raise InvalidArgument("--tls and --insecure-plaintext contradict each other; give one of them")
    return settings.tls or not (settings.insecure_plaintext or _is_loopback("--listen", host))


def metrics_address(settings: Settings) -> tuple[str, int] | None:
    """Host and port of the metrics; None without. Raises InvalidArgument or AddressUnusable as `uses_tls` does."""
    if settings.metrics_listen is None:
        return None
    host, port = _host_and_port("--metrics-listen", settings.metrics_listen, _METRICS_PORT)
    if not settings.insecure_metrics and not _is_loopback("--metrics-listen", host):
        raise AddressUnusable(
            f"refusing to serve metrics on {settings.metrics_listen} in plain text: anyone on the network could read"
            " them; take a loopback address, or add --insecure-metrics if that is really wanted"
        )
    return host, port


def _host_and_port(flag: str, address: str, usual_port: int) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f'{flag} "{address}" is not HOST:PORT; write for example 127.0.0.1:{usual_port}')
    return host.strip("[]"), int(port)


def _is_loopback(flag: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise AddressUnusable(f'{flag}: "{host}" is no host name that this machine knows: {error.strerror}') from error
    return bool(found) and all(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in found)
