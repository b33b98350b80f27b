"""Where an agent listens, as people write it."""

from __future__ import annotations

import ipaddress
import re

from backbench.domain.errors import InvalidArgument

DEFAULT_PORT = 50061
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def normal_address(text: str) -> str:
    """HOST:PORT, with the agent's usual port where none is given. Raises InvalidArgument.

    >>> normal_address("orin.local")
    'orin.local:50061'
    """
    host, port = _parts(text.strip())
    if _NAME.fullmatch(host) is None and _ip(host) is None:
        raise InvalidArgument(f'address "{text}": "{host}" is no host name or IP address; write HOST:PORT')
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgument(f'address "{text}": port "{port}" is not a number from 1 to 65535')
    return f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}"


def is_loopback(address: str) -> bool:
    """Whether what is sent to HOST:PORT stays on this machine, as far as the text tells."""
    host, _ = _parts(address)
    ip = _ip(host)
    return ip.is_loopback if ip is not None else host == "localhost"


def _parts(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":") if rest else str(DEFAULT_PORT)
    if text.count(":") > 1:
        return text, str(DEFAULT_PORT)
    host, separator, port = text.partition(":")
    return host, port if separator else str(DEFAULT_PORT)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
