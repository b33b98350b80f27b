"""Channels to agents: who may be talked to in plain text, message sizes, signs of life."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from backbench.controller.client.address import is_loopback
from backbench.domain.errors import InvalidArgument
from backbench.wire.digest import MESSAGE_BYTES

CONNECT_S = 5.0
"""A connection that is not made after this long is not made at all."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # This is also gRPC's limit for one attempt to connect.
    ("grpc.min_reconnect_backoff_ms", round(CONNECT_S * 1000)),
    # A device is on the local network; what `https_proxy` names cannot reach it.
    ("grpc.enable_http_proxy", 0),
    # Every client has a connection of its own, so that closing one never disturbs another.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Security:
    """How an agent is talked to: PEM files for TLS; `insecure` allows plain text beyond this machine."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    insecure: bool = False

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return any((self.ca_file, self.certificate_file, self.key_file))


def open_channel(address: str, security: Security) -> grpc.Channel:
    """A channel, not yet connected. Raises InvalidArgument for plain text beyond loopback and unusable PEM files."""
    if security.tls:
        return grpc.secure_channel(address, _credentials(security), options=_OPTIONS)
    if not security.insecure and not is_loopback(address):
        raise InvalidArgument(
            f"{address} is not this machine and no certificates are given: anyone on the network could read and change"
            " what is sent; give --ca (and --certificate, --key), or --insecure-plaintext if that is really wanted"
        )
    return grpc.insecure_channel(address, options=_OPTIONS)


def _credentials(security: Security) -> grpc.ChannelCredentials:
    if (security.certificate_file is None) != (security.key_file is None):
        raise InvalidArgument("--certificate and --key go together; give both or none")
    return grpc.ssl_channel_credentials(
        root_certificates=_read(security.ca_file),
        private_key=_read(security.key_file),
        certificate_chain=_read(security.certificate_file),
    )


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read ({error.strerror}); check the path") from error
    if b"-----BEGIN" not in data:
        raise InvalidArgument(f"{path} is not a PEM file; give the certificate or key in PEM form")
    return data
