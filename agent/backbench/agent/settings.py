"""How an agent is started."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from pathlib import Path

from backbench.domain.device import Limits
from backbench.domain.errors import AddressUnusable, InvalidArgument


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the agent's certificate and key, and the authority whose clients are let in (without it, all)."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Where an agent listens, where it keeps its data, and what it refuses to exceed."""

    listen: str
    data_dir: Path
    tls: TlsFiles | None = None
    insecure_plaintext: bool = False
    limits: Limits = field(default_factory=Limits)


def check_listen(settings: Settings) -> None:
    """Raises AddressUnusable for plain text beyond loopback, InvalidArgument for an address that does not parse."""
    host, separator, port = settings.listen.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f'--listen "{settings.listen}" is not HOST:PORT; write for example 127.0.0.1:50061')
    if settings.tls or settings.insecure_plaintext or _is_loopback(host.strip("[]")):
        return
    raise AddressUnusable(
        f"refusing to listen on {settings.listen} in plain text: anyone on the network could run models here; "
        "give --tls-certificate and --tls-key, or --insecure-plaintext if that is really wanted"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise AddressUnusable(
            f'--listen: "{host}" is no host name that this machine knows: {error.strerror}'
        ) from error
    return bool(found) and all(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in found)
