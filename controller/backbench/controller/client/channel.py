"""Channels to agents: TLS or plain text, message sizes, signs of life."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    # By itself gRPC waits longer for a ping's answer than keepalive_timeout_ms says, and after two pings on a stream
    # that sends nothing it stops asking: a line that went dead would be believed in for ever.
    ("grpc.http2.ping_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
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
class Tls:
    """TLS in both directions, all of it PEM: who signs the agent's certificate, and who calls.

    The agent must show a certificate for `server_name`, wherever it is reached.
    """

    authority_pem: bytes
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    server_name: str


@dataclass(frozen=True, slots=True)
class Security:
    """How an agent is talked to: over TLS, or in plain text; beyond this machine only where `insecure` says so."""

    tls: Tls | None = None
    insecure: bool = False


def open_channel(address: str, security: Security) -> grpc.Channel:
    """A channel, not yet connected. Raises InvalidArgument for plain text beyond loopback."""
    if (tls := security.tls) is not None:
        credentials = grpc.ssl_channel_credentials(tls.authority_pem, tls.key_pem, tls.certificate_pem)
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", tls.server_name))
        return grpc.secure_channel(address, credentials, options=options)
    if not security.insecure and not is_loopback(address):
        raise InvalidArgument(
            f"{address} is not this machine, and in plain text anyone on the network could read and change what is"
            f" sent; pair with it: backbench pair {address}, or give --insecure-plaintext if that is really wanted"
        )
    return grpc.insecure_channel(address, options=_OPTIONS)
