"""Sending one file in chunks, going on where an earlier attempt stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from backbench.controller.client.calls import Calls, jittered
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import (
    BackbenchError,
    DeadlineExceeded,
    DigestMismatch,
    InvalidArgument,
    Unreachable,
    UploadOutOfStep,
)
from backbench.v1 import artifact_pb2 as pb
from backbench.v1 import artifact_pb2_grpc
from backbench.wire.artifact import kind_to_pb
from backbench.wire.digest import CHUNK_BYTES

Progress = Callable[[int], None]
"""Called with the bytes sent so far, those of earlier attempts included; from a thread of its own."""


def ignore(done: int) -> None:
    """The progress that nobody looks at."""


_ATTEMPTS = 4
"""Attempts that bring nothing further before an upload is given up."""
_SLOWEST_BYTES_PER_S = 100_000


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be sent, and what it is."""

    path: Path
    kind: ArtifactKind
    name: str


class Uploader:
    """Sends files to one agent."""

    def __init__(self, stub: artifact_pb2_grpc.ArtifactServiceStub, calls: Calls) -> None:
        self._stub = stub
        self._calls = calls

    def committed(self, sha256: str) -> tuple[int, bool]:
        """Bytes that the agent has safely stored, and whether the artifact is complete."""
        answer = self._calls.repeated(self._stub.QueryUpload, pb.QueryUploadRequest(sha256=sha256))
        return answer.committed_bytes, answer.complete

    def send(self, upload: Upload, sha256: str, progress: Progress) -> int:
        """Send what the agent lacks of a file; returns the bytes sent."""
        size = upload.path.stat().st_size
        header = pb.UploadHeader(sha256=sha256, size_bytes=size, kind=kind_to_pb(upload.kind), name=upload.name)
        sent, fruitless, furthest = 0, 0, -1
        while True:
            offset, complete = self.committed(sha256)
            if complete:
                progress(size)
                return sent
            fruitless = 0 if offset > furthest else fruitless + 1
            furthest = max(furthest, offset)
            attempt = _Attempt(upload.path, header, offset, progress)
            try:
                self._stream(attempt, deadline_s=60 + (size - offset) / _SLOWEST_BYTES_PER_S)
            except (Unreachable, DeadlineExceeded, UploadOutOfStep):
                if fruitless >= _ATTEMPTS:
                    raise
                time.sleep(jittered(0.1 * 2**fruitless))
            except DigestMismatch:
                # What an earlier attempt had left was damaged, as by a loss of power: it is gone, so once more.
                if offset == 0 or fruitless >= _ATTEMPTS:
                    raise
            finally:
                sent += attempt.sent

    def _stream(self, attempt: _Attempt, deadline_s: float) -> None:
        started = time.monotonic()
        try:
            self._stub.Upload(attempt.requests(), timeout=deadline_s)
        except grpc.RpcError as error:
            attempt.ended.wait(1.0)
            if attempt.failure is not None:
                raise attempt.failure from error
            raise self._calls.error(error, time.monotonic() - started) from error


class _Attempt:
    """The messages of one stream. What goes wrong while they are made is kept in `failure`: gRPC swallows it."""

    def __init__(self, path: Path, header: pb.UploadHeader, offset: int, progress: Progress) -> None:
        self._path = path
        self._header = header
        self._offset = offset
        self._progress = progress
        self.sent = 0
        self.failure: OSError | BackbenchError | None = None
        self.ended = threading.Event()

    def requests(self) -> Iterator[pb.UploadRequest]:
        try:
            yield pb.UploadRequest(header=self._header)
            with self._path.open("rb") as file:
                file.seek(self._offset)
                yield from self._chunks(file.read)
        except (OSError, BackbenchError) as error:
            self.failure = error
            raise
        finally:
            self.ended.set()

    def _chunks(self, read: Callable[[int], bytes]) -> Iterator[pb.UploadRequest]:
        while self._offset < self._header.size_bytes:
            data = read(min(CHUNK_BYTES, self._header.size_bytes - self._offset))
            if not data:
                raise InvalidArgument(f"{self._path} became shorter while it was being sent; push it again")
            yield pb.UploadRequest(offset=self._offset, data=data)
            self._offset += len(data)
            self.sent += len(data)
            self._progress(self._offset)
