"""The agent that runs over a data folder, spoken to through its own socket: for the commands on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from backbench.agent.listening import socket_address, socket_path
from backbench.domain.device import AgentStatus
from backbench.domain.errors import AgentUnreachable, BackbenchError, DeadlineExceeded
from backbench.domain.security import AgentSecurity
from backbench.v1 import device_pb2, device_pb2_grpc, security_pb2, security_pb2_grpc
from backbench.wire.mapping import from_message
from backbench.wire.status import error_from_status

_TIMEOUT_S = 10.0


class LocalAgent:
    """A context manager. Every call raises BackbenchError; AgentUnreachable where no agent runs."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        if not socket_path(data_dir).exists():
            raise self._absent()
        self._channel = grpc.insecure_channel(socket_address(data_dir), options=(("grpc.enable_http_proxy", 0),))

    def security(self) -> AgentSecurity:
        """Who it is and which fleets it belongs to."""
        stub = security_pb2_grpc.SecurityServiceStub(self._channel)
        return from_message(self.call(stub.GetSecurity, security_pb2.GetSecurityRequest()), AgentSecurity)

    def status(self) -> AgentStatus:
        """How it is: what goes on and what it keeps."""
        stub = device_pb2_grpc.DeviceServiceStub(self._channel)
        return from_message(self.call(stub.GetStatus, device_pb2.GetStatusRequest()).status, AgentStatus)

    def open_pairing(self, ttl_s: int) -> tuple[str, int]:
        """A new pairing code, and its end in nanoseconds since 1970."""
        stub = security_pb2_grpc.SecurityServiceStub(self._channel)
        opened = self.call(stub.OpenPairing, security_pb2.OpenPairingRequest(ttl_s=ttl_s))
        return opened.code, opened.expires_unix_ns

    def remove_fleet(self, fleet_id: str) -> str:
        """Leave the fleet whose id begins like this; its whole id."""
        stub = security_pb2_grpc.SecurityServiceStub(self._channel)
        return str(self.call(stub.RemoveFleet, security_pb2.RemoveFleetRequest(fleet_id=fleet_id)).fleet_id)

    def call(self, method: Callable[..., Any], request: Any) -> Any:
        """One unary call, with its errors as those of Backbench."""
        try:
            return method(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            found: Any = error
            known = error_from_status(found.code(), found.details() or "", found.trailing_metadata() or ())
            if known is None or (isinstance(known, AgentUnreachable) and not found.trailing_metadata()):
                raise self._absent() if known else BackbenchError(str(found.details())) from None
            if isinstance(known, DeadlineExceeded) and not found.trailing_metadata():
                raise DeadlineExceeded(
                    f"the agent over {self._data_dir} did not answer within {_TIMEOUT_S:g} s: it hangs, or the device"
                    " has too much to do; look into its log, or restart it"
                ) from None
            raise known from None

    def _absent(self) -> AgentUnreachable:
        return AgentUnreachable(
            f"no agent runs over {self._data_dir}; start one with backbench-agent serve --data-dir {self._data_dir}, "
            "or name its folder with --data-dir"
        )

    def __enter__(self) -> LocalAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
