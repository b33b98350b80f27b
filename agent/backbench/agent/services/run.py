"""RunService over the queue, the journals and the leases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from backbench.agent.callers import current_caller
from backbench.agent.leases import Leases
from backbench.agent.runs import Runs
from backbench.domain.device import MIN_PROTOCOL_REVISION
from backbench.domain.errors import InvalidArgument, MessageTooLarge, PermissionDenied, VersionMismatch
from backbench.domain.run import Lease, Owner, Run, RunSpec
from backbench.domain.security import Role
from backbench.v1 import run_pb2 as pb
from backbench.v1 import run_pb2_grpc
from backbench.wire.mapping import from_message, to_message

Context = grpc.aio.ServicerContext[Any, Any]
_PAGE_BYTES = 1 << 20
_SPEC_BYTES = 1 << 20
"""A run is told with its specification and messages that name parts of it: all of that must fit in one message."""


class RunService(run_pb2_grpc.RunServiceServicer):
    """See backbench/v1/run.proto."""

    def __init__(self, runs: Runs, leases: Leases, check: Callable[[RunSpec], Awaitable[None]]) -> None:
        self._runs = runs
        self._store = runs.store
        self._leases = leases
        self._check = check

    async def SubmitRun(self, request: pb.SubmitRunRequest, context: Context) -> pb.SubmitRunResponse:  # noqa: ARG002, N802
        """Check and queue a run."""
        if 0 < request.protocol_revision < MIN_PROTOCOL_REVISION:
            raise VersionMismatch(f"this agent works with controllers of protocol {MIN_PROTOCOL_REVISION} or newer")
        if not request.HasField("spec"):
            raise InvalidArgument("the request holds no run specification")
        if request.spec.ByteSize() > _SPEC_BYTES:
            raise MessageTooLarge(
                f"the run's specification has {request.spec.ByteSize()} bytes; give one of at most {_SPEC_BYTES}, with"
                " shorter names or fewer images"
            )
        spec = from_message(request.spec, RunSpec)
        run = self._runs.known(spec)
        if run is None:
            await self._check(spec)
            run = self._runs.submit(spec, _caller(), request.lease_id, request.epoch)
        return pb.SubmitRunResponse(run=_run(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:  # noqa: ARG002, N802
        """One run."""
        return pb.GetRunResponse(run=_run(self._store.get(request.run_id)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:  # noqa: ARG002, N802
        """A page of runs, newest first."""
        if request.limit < 0:
            raise InvalidArgument(f"limit is {request.limit}; it must not be below 0")
        answer = pb.ListRunsResponse()
        size, end = 0, 0
        for place, run in self._store.page(_place(request.page_token)):
            message = _run(run)
            if request.states and message.state not in request.states:
                continue
            if request.unacknowledged_only and message.acknowledged_sequence >= message.last_sequence:
                continue
            if answer.runs and (size > _PAGE_BYTES or len(answer.runs) == request.limit):
                answer.next_page_token = str(end)
                break
            answer.runs.append(message)
            end, size = place, size + message.ByteSize()
        return answer

    async def WatchRun(  # noqa: N802
        self,
        request: pb.WatchRunRequest,
        context: Context,  # noqa: ARG002
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """Events from a number on, then live."""
        async for payload in self._store.watch(request.run_id, request.from_sequence):
            response = pb.WatchRunResponse()
            response.event.MergeFromString(payload)
            yield response

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:  # noqa: ARG002, N802
        """End a run."""
        self._check_own(request.run_id, "cancel")
        return pb.CancelRunResponse(run=_run(await self._runs.cancel(request.run_id)))

    async def AcknowledgeRun(  # noqa: N802
        self,
        request: pb.AcknowledgeRunRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.AcknowledgeRunResponse:
        """Keep how far a controller has stored a run."""
        self._check_own(request.run_id, "acknowledge")
        self._store.acknowledge(request.run_id, request.sequence)
        return pb.AcknowledgeRunResponse()

    async def DeleteRun(self, request: pb.DeleteRunRequest, context: Context) -> pb.DeleteRunResponse:  # noqa: ARG002, N802
        """Remove an ended run."""
        self._check_own(request.run_id, "delete")
        self._store.delete(request.run_id)
        return pb.DeleteRunResponse()

    async def AcquireLease(self, request: pb.AcquireLeaseRequest, context: Context) -> pb.AcquireLeaseResponse:  # noqa: ARG002, N802
        """Reserve the device."""
        self._runs.check_idle(_caller())
        return pb.AcquireLeaseResponse(lease=_lease(self._leases.acquire(request.holder, request.ttl_ns or None)))

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Context) -> pb.RenewLeaseResponse:  # noqa: ARG002, N802
        """Keep the reservation."""
        return pb.RenewLeaseResponse(lease=_lease(self._leases.renew(request.lease_id, request.epoch)))

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Context) -> pb.ReleaseLeaseResponse:  # noqa: ARG002, N802
        """Give the reservation back."""
        self._leases.release(request.lease_id)
        return pb.ReleaseLeaseResponse()

    def _check_own(self, run_id: str, verb: str) -> None:
        """Raises PermissionDenied for a run of somebody else, unless the caller may do everything; RunNotFound."""
        run = self._store.get(run_id)
        owner = run.owner or Owner("local")
        if current_caller().role not in (Role.ADMIN, Role.LOCAL) and owner != _caller():
            raise PermissionDenied(
                f"run {run_id} is {owner.name}'s; only its owner or an admin may {verb} it", owner=owner.name
            )


def _caller() -> Owner:
    caller = current_caller()
    return Owner(caller.name, caller.fleet_id)


def _place(page_token: str) -> int | None:
    """Where a page begins. Raises InvalidArgument."""
    if not page_token:
        return None
    if not (page_token.isascii() and page_token.isdigit()) or len(page_token) > 18:
        raise InvalidArgument("page_token is none that this agent gave; begin with the first page")
    return int(page_token)


def _run(run: Run) -> pb.Run:
    return to_message(run, pb.Run())


def _lease(lease: Lease) -> pb.Lease:
    return to_message(lease, pb.Lease())
