"""RunService over the queue, the journals and the leases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from backbench.agent.leases import Leases
from backbench.agent.runs import Runs
from backbench.domain.device import MIN_PROTOCOL_REVISION
from backbench.domain.errors import InvalidArgument, VersionMismatch
from backbench.domain.run import Lease, Run, RunSpec
from backbench.v1 import run_pb2 as pb
from backbench.v1 import run_pb2_grpc
from backbench.wire.event import event_to_pb
from backbench.wire.mapping import from_message, to_message

Context = grpc.aio.ServicerContext[Any, Any]


class RunService(run_pb2_grpc.RunServiceServicer):
    """See backbench/v1/run.proto."""

    def __init__(self, runs: Runs, leases: Leases, check: Callable[[RunSpec], Awaitable[None]]) -> None:
        self._runs = runs
        self._leases = leases
        self._check = check

    async def SubmitRun(self, request: pb.SubmitRunRequest, context: Context) -> pb.SubmitRunResponse:  # noqa: ARG002, N802
        """Check and queue a run."""
        if 0 < request.protocol_revision < MIN_PROTOCOL_REVISION:
            raise VersionMismatch(f"this agent works with controllers of protocol {MIN_PROTOCOL_REVISION} or newer")
        if not request.HasField("spec"):
            raise InvalidArgument("the request holds no run specification")
        spec = from_message(request.spec, RunSpec)
        await self._check(spec)
        self._leases.check(request.lease_id, request.epoch)
        return pb.SubmitRunResponse(run=_run(self._runs.submit(spec)))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:  # noqa: ARG002, N802
        """One run."""
        return pb.GetRunResponse(run=_run(self._runs.get(request.run_id)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:  # noqa: ARG002, N802
        """Runs, newest first."""
        runs = [_run(run) for run in self._runs.list()]
        if request.states:
            runs = [run for run in runs if run.state in request.states]
        if request.unacknowledged_only:
            runs = [run for run in runs if run.acknowledged_sequence < run.last_sequence]
        return pb.ListRunsResponse(runs=runs)

    async def WatchRun(  # noqa: N802
        self,
        request: pb.WatchRunRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """Events from a number on, then live."""
        async for event in self._runs.watch(request.run_id, request.from_sequence):
            yield pb.WatchRunResponse(event=event_to_pb(event))

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:  # noqa: ARG002, N802
        """End a run."""
        return pb.CancelRunResponse(run=_run(await self._runs.cancel(request.run_id)))

    async def AcknowledgeRun(  # noqa: N802
        self,
        request: pb.AcknowledgeRunRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.AcknowledgeRunResponse:
        """Keep how far a controller has stored a run."""
        self._runs.acknowledge(request.run_id, request.sequence)
        return pb.AcknowledgeRunResponse()

    async def DeleteRun(self, request: pb.DeleteRunRequest, context: Context) -> pb.DeleteRunResponse:  # noqa: ARG002, N802
        """Remove an ended run."""
        self._runs.delete(request.run_id)
        return pb.DeleteRunResponse()

    async def AcquireLease(self, request: pb.AcquireLeaseRequest, context: Context) -> pb.AcquireLeaseResponse:  # noqa: ARG002, N802
        """Reserve the device."""
        return pb.AcquireLeaseResponse(lease=_lease(self._leases.acquire(request.holder, request.ttl_ns or None)))

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Context) -> pb.RenewLeaseResponse:  # noqa: ARG002, N802
        """Keep the reservation."""
        return pb.RenewLeaseResponse(lease=_lease(self._leases.renew(request.lease_id, request.epoch)))

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Context) -> pb.ReleaseLeaseResponse:  # noqa: ARG002, N802
        """Give the reservation back."""
        self._leases.release(request.lease_id)
        return pb.ReleaseLeaseResponse()


def _run(run: Run) -> pb.Run:
    return to_message(run, pb.Run())


def _lease(lease: Lease) -> pb.Lease:
    return to_message(lease, pb.Lease())
