"""Where an agent listens: one port for controllers, and a socket in its data folder for users of the device."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
from pathlib import Path
from urllib.parse import quote

import grpc

from backbench.agent.quiet import quiet_stderr
from backbench.agent.settings import DEFAULT_PORT
from backbench.domain.errors import AddressUnusable

log = logging.getLogger(__name__)

_SOCKET = "agent.sock"
_MAX_PATH_BYTES = 100
"""The system takes 108 with the zero at the end."""
_OTHER_FILES = 1024


def make_room(connections: int) -> None:
    """Let this process have that many connections open beside its files, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(connections + _OTHER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind_port(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    """Listen there, in plain text without credentials; returns the port. Raises AddressUnusable."""
    try:
        with quiet_stderr():  # gRPC would print a line of its own beside the one error
            port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError:
        port = 0
    if port == 0:
        raise AddressUnusable(
            f"cannot listen on {listen}: the port is in use or the address is not this machine's; "
            "choose another with --listen, or stop the agent that has it"
        )
    return port


def bind_socket(server: grpc.aio.Server, data_dir: Path) -> None:
    """Listen on the agent's own socket too; where that cannot be, only a warning says so."""
    path = data_dir.absolute() / _SOCKET
    problem = ""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        problem = f"its path has more than {_MAX_PATH_BYTES} bytes"
    else:
        path.unlink(missing_ok=True)  # of an agent that was killed: the folder's lock says that there is no other
        before = os.umask(0o177)
        try:
            with quiet_stderr():
                server.add_insecure_port(socket_address(data_dir))
        except RuntimeError as error:
            problem = str(error)
        finally:
            os.umask(before)
    if problem:
        log.warning(
            "no socket %s: %s; backbench-agent pair and the like cannot reach this agent, a shorter --data-dir helps",
            path, problem,
        )  # fmt: skip


def remove_socket(data_dir: Path) -> None:
    """Take the socket away, so that nobody waits at it."""
    with contextlib.suppress(OSError):
        (data_dir / _SOCKET).unlink()


def socket_address(data_dir: Path) -> str:
    """The agent's own socket as gRPC names it."""
    return "unix:" + quote(str(data_dir.absolute() / _SOCKET))


def socket_path(data_dir: Path) -> Path:
    """The agent's own socket."""
    return data_dir.absolute() / _SOCKET


def reachable_name(listen: str, port: int) -> str:
    """How another machine names this agent, as far as the agent can know."""
    host = listen.rpartition(":")[0]
    if host.strip("[]") in ("0.0.0.0", "::", "*"):  # noqa: S104 - a comparison
        host = socket.gethostname()
    return host if port == DEFAULT_PORT else f"{host}:{port}"
