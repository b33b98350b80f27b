"""ArtifactService over the artifact store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from backbench.agent import artifacts
from backbench.agent.meters import Meters
from backbench.agent.runs import Runs
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import DeviceBusy, InvalidArgument, MessageTooLarge
from backbench.v1 import artifact_pb2 as pb
from backbench.v1 import artifact_pb2_grpc
from backbench.wire.artifact import kind_from_pb
from backbench.wire.mapping import to_message

_MAX_DIGESTS = 4096
Context = grpc.aio.ServicerContext[Any, Any]


class ArtifactService(artifact_pb2_grpc.ArtifactServiceServicer):
    """See backbench/v1/artifact.proto."""

    def __init__(self, store: artifacts.ArtifactStore, runs: Runs, meters: Meters) -> None:
        self._store = store
        self._runs = runs
        self._meters = meters

    async def FindMissing(self, request: pb.FindMissingRequest, context: Context) -> pb.FindMissingResponse:  # noqa: ARG002, N802
        """Which digests are not held."""
        if len(request.sha256) > _MAX_DIGESTS:
            raise MessageTooLarge(f"{len(request.sha256)} digests in one question; ask for at most {_MAX_DIGESTS}")
        return pb.FindMissingResponse(sha256=self._store.missing(request.sha256))

    async def QueryUpload(self, request: pb.QueryUploadRequest, context: Context) -> pb.QueryUploadResponse:  # noqa: ARG002, N802
        """How much of an upload is stored."""
        committed, complete = self._store.committed(request.sha256)
        return pb.QueryUploadResponse(committed_bytes=committed, complete=complete)

    async def Upload(self, requests: AsyncIterator[pb.UploadRequest], context: Context) -> pb.UploadResponse:  # noqa: ARG002, N802
        """Take chunks until the caller closes its side."""
        upload: artifacts.Upload | None = None
        try:
            async for request in requests:
                if upload is None:
                    upload = self._begun(request)
                    await asyncio.to_thread(upload.catch_up)
                if request.data:
                    upload.write(request.offset, request.data)
                    self._meters.upload_bytes += len(request.data)
            if upload is None:
                raise InvalidArgument("the upload ended before its header")
            await asyncio.to_thread(upload.finish)
        finally:
            if upload is not None:
                self._store.ended(upload)
        committed, complete = self._store.committed(upload.sha256)
        return pb.UploadResponse(committed_bytes=committed, complete=complete)

    def _begun(self, request: pb.UploadRequest) -> artifacts.Upload:
        if not request.HasField("header"):
            raise InvalidArgument("the first message of an upload must carry its header")
        header = request.header
        kind = kind_from_pb(header.kind) or ArtifactKind.MODEL
        return self._store.begin(header.sha256, header.size_bytes, kind, header.name)

    async def ListArtifacts(self, request: pb.ListArtifactsRequest, context: Context) -> pb.ListArtifactsResponse:  # noqa: ARG002, N802
        """Everything held."""
        return pb.ListArtifactsResponse(
            artifacts=[to_message(artifact, pb.Artifact()) for artifact in self._store.list()]
        )

    async def DeleteArtifact(self, request: pb.DeleteArtifactRequest, context: Context) -> pb.DeleteArtifactResponse:  # noqa: ARG002, N802
        """Remove one that no run needs."""
        if self._runs.uses(request.sha256):
            raise DeviceBusy(f"a run that has not ended uses artifact {request.sha256[:12]}; wait for it or cancel it")
        self._store.delete(request.sha256)
        return pb.DeleteArtifactResponse()
