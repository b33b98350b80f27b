"""The client of one agent: every call of its four services, with domain objects on this side."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType

import grpc

from backbench.controller.client.address import normal_address
from backbench.controller.client.calls import PATIENCE_S, Calls
from backbench.controller.client.channel import Security, open_channel
from backbench.controller.client.uploads import Progress, Upload, Uploader, ignore
from backbench.domain.artifact import Artifact, ArtifactKind
from backbench.domain.device import PROTOCOL_REVISION, Device
from backbench.domain.errors import JournalCorrupt, VersionMismatch
from backbench.domain.event import RunEvent
from backbench.domain.run import SECOND_NS, Lease, Run, RunSpec, RunState
from backbench.domain.security import AgentSecurity
from backbench.domain.telemetry import TelemetryBlock
from backbench.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    run_pb2,
    run_pb2_grpc,
    security_pb2,
    security_pb2_grpc,
)
from backbench.wire.columns import telemetry_from_pb
from backbench.wire.event import event_from_pb
from backbench.wire.mapping import from_message, to_message

_FIND_AT_ONCE = 4096
_CANCEL_S = 60.0
_WATCH_S = 900.0


class AgentClient:
    """One agent, over one connection that is made with the first call. Every error is a BackbenchError.

    `tls` says whether the agent must show a certificate. `patience_s` is how long an agent that cannot be reached is
    tried; by default 5 s.

    >>> with AgentClient("127.0.0.1:50061") as client:  # doctest: +SKIP
    ...     client.get_device().identity.board
    """

    def __init__(self, address: str, security: Security | None = None, patience_s: float | None = None) -> None:
        self.address = normal_address(address)
        security = security or Security()
        self._channel = open_channel(self.address, security)
        patience_s = PATIENCE_S if patience_s is None else patience_s
        self.tls = security.tls is not None
        self._calls = Calls(self.address, patience_s, tls=self.tls)
        self._devices = device_pb2_grpc.DeviceServiceStub(self._channel)
        self._artifacts = artifact_pb2_grpc.ArtifactServiceStub(self._channel)
        self._runs = run_pb2_grpc.RunServiceStub(self._channel)
        self._security = security_pb2_grpc.SecurityServiceStub(self._channel)
        self._uploader = Uploader(self._artifacts, self._calls)

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection up; calls going on end."""
        self._channel.close()

    def get_device(self) -> Device:
        """Who this device is and what it can do."""
        answer = self._calls.repeated(self._devices.GetDevice, device_pb2.GetDeviceRequest())
        return from_message(answer.device, Device)

    def watch_telemetry(
        self, rate_hz: float, sources: Sequence[str] = (), seconds: float | None = None
    ) -> Generator[TelemetryBlock, None, None]:
        """Live telemetry at a rate, and of extra sources besides those that are always read.

        One stream of `seconds` at most, never resumed here: AgentUnreachable when it is cut. Close the iterator to hang
        up.
        """
        request = device_pb2.WatchTelemetryRequest(rate_hz=rate_hz, extra_sources=sources)
        call = self._devices.WatchTelemetry(request, timeout=seconds)
        try:
            for response in call:
                yield telemetry_from_pb(response.telemetry)
        except grpc.RpcError as error:
            if seconds is None or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._calls.error(error, 0.0) from error
        finally:
            call.cancel()

    def find_missing(self, digests: Sequence[str]) -> tuple[str, ...]:
        """Those of the digests that the agent does not hold, in order, each once."""
        wanted = list(dict.fromkeys(digests))
        missing: list[str] = []
        for start in range(0, len(wanted), _FIND_AT_ONCE):
            request = artifact_pb2.FindMissingRequest(sha256=wanted[start : start + _FIND_AT_ONCE])
            missing += self._calls.repeated(self._artifacts.FindMissing, request).sha256
        return tuple(missing)

    def query_upload(self, sha256: str) -> tuple[int, bool]:
        """Bytes stored of an upload, and whether the artifact is complete and visible."""
        return self._uploader.committed(sha256)

    def upload(self, path: Path, sha256: str, kind: ArtifactKind, name: str, progress: Progress | None = None) -> int:
        """Send a file from where an earlier attempt stopped; returns the bytes sent now. Raises OSError."""
        return self._uploader.send(Upload(path, kind, name), sha256, progress or ignore)

    def list_artifacts(self) -> tuple[Artifact, ...]:
        """Artifacts held, newest first."""
        answer = self._calls.repeated(self._artifacts.ListArtifacts, artifact_pb2.ListArtifactsRequest())
        return tuple(from_message(artifact, Artifact) for artifact in answer.artifacts)

    def delete_artifact(self, sha256: str) -> None:
        """Remove one artifact. Raises ArtifactNotFound, DeviceBusy."""
        self._calls.once(self._artifacts.DeleteArtifact, artifact_pb2.DeleteArtifactRequest(sha256=sha256))

    def submit_run(self, spec: RunSpec, lease: Lease | None = None) -> Run:
        """Queue a run; sent again with the same run id it returns the run that exists."""
        request = run_pb2.SubmitRunRequest(
            spec=to_message(spec, run_pb2.RunSpec()),
            lease_id=lease.lease_id if lease else "",
            epoch=lease.epoch if lease else 0,
            protocol_revision=PROTOCOL_REVISION,
            client="backbench",
        )
        return from_message(self._calls.repeated(self._runs.SubmitRun, request).run, Run)

    def get_run(self, run_id: str) -> Run:
        """One run. Raises RunNotFound."""
        return from_message(self._calls.repeated(self._runs.GetRun, run_pb2.GetRunRequest(run_id=run_id)).run, Run)

    def list_runs(self, *, going_on: bool = False) -> tuple[Run, ...]:
        """Runs that the agent has, newest first: all, or those that have not ended."""
        runs: list[Run] = []
        states = [state for state in RunState if not state.ended] if going_on else ()
        request = run_pb2.ListRunsRequest(states=[run_pb2.RunState.Value(f"RUN_STATE_{each.name}") for each in states])
        while True:
            answer = self._calls.repeated(self._runs.ListRuns, request)
            runs += [from_message(run, Run) for run in answer.runs]
            if not answer.next_page_token:
                return tuple(runs)
            request.page_token = answer.next_page_token

    def watch_run(self, run_id: str, from_sequence: int = 1) -> Generator[RunEvent, None, None]:
        """A run's events from a number on, then live; ends after the result.

        One stream, never resumed here: AgentUnreachable when it is cut, DeadlineExceeded after a quarter of an hour.
        Close the iterator to hang up.
        """
        request = run_pb2.WatchRunRequest(run_id=run_id, from_sequence=from_sequence)
        call = self._runs.WatchRun(request, timeout=_WATCH_S)
        try:
            for response in call:
                yield _event(response.event)
        except grpc.RpcError as error:
            raise self._calls.error(error, 0.0) from error
        finally:
            call.cancel()

    def cancel_run(self, run_id: str) -> Run:
        """Ask a run to stop, wait until it has, and return it; what it measured is kept."""
        request = run_pb2.CancelRunRequest(run_id=run_id)
        return from_message(self._calls.repeated(self._runs.CancelRun, request, _CANCEL_S).run, Run)

    def acknowledge_run(self, run_id: str, sequence: int) -> None:
        """Say that everything up to a sequence number is stored here."""
        request = run_pb2.AcknowledgeRunRequest(run_id=run_id, sequence=sequence)
        self._calls.repeated(self._runs.AcknowledgeRun, request)

    def delete_run(self, run_id: str) -> None:
        """Remove an ended run from the agent. Raises RunNotFound, RunNotFinished."""
        self._calls.once(self._runs.DeleteRun, run_pb2.DeleteRunRequest(run_id=run_id))

    def acquire_lease(self, holder: str, ttl_s: float = 60.0) -> Lease:
        """Reserve the device for several runs. Raises DeviceBusy."""
        request = run_pb2.AcquireLeaseRequest(holder=holder, ttl_ns=round(ttl_s * SECOND_NS))
        return from_message(self._calls.once(self._runs.AcquireLease, request).lease, Lease)

    def renew_lease(self, lease: Lease) -> Lease:
        """Keep a lease alive. Raises LeaseNotFound, StaleEpoch."""
        request = run_pb2.RenewLeaseRequest(lease_id=lease.lease_id, epoch=lease.epoch)
        return from_message(self._calls.repeated(self._runs.RenewLease, request).lease, Lease)

    def release_lease(self, lease: Lease) -> None:
        """Give a lease back; one that has expired is no error."""
        request = run_pb2.ReleaseLeaseRequest(lease_id=lease.lease_id, epoch=lease.epoch)
        self._calls.repeated(self._runs.ReleaseLease, request)

    def get_security(self) -> AgentSecurity:
        """The agent's identity, the fleets it belongs to, and who this controller is to it."""
        answer = self._calls.repeated(self._security.GetSecurity, security_pb2.GetSecurityRequest())
        return from_message(answer, AgentSecurity)

    def install_certificate(self, certificate_pem: bytes, authority_pem: bytes, revocations_pem: bytes) -> None:
        """Join the agent to a fleet, which uses a pairing code up, or renew its certificate."""
        request = security_pb2.InstallCertificateRequest(
            certificate_pem=certificate_pem, authority_pem=authority_pem, revocations_pem=revocations_pem
        )
        self._calls.once(self._security.InstallCertificate, request)

    def install_revocations(self, revocations_pem: bytes) -> int:
        """Hand over a list of revoked certificates; returns the number of the one that is in force then."""
        request = security_pb2.InstallRevocationsRequest(revocations_pem=revocations_pem)
        return int(self._calls.repeated(self._security.InstallRevocations, request).revocation_number)


def _event(message: run_pb2.RunEvent) -> RunEvent:
    try:
        return event_from_pb(message)
    except JournalCorrupt as error:  # it came whole, so it is not the device's journal that is at fault
        raise VersionMismatch(error.message) from error
