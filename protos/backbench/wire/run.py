"""Runs, their specifications and failures as bytes, for journals and stores."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from backbench.domain.errors import InvalidArgument, JournalCorrupt
from backbench.domain.run import Run, RunFailure, RunSpec
from backbench.v1 import run_pb2
from backbench.wire.mapping import from_message, to_message


def spec_to_bytes(spec: RunSpec) -> bytes:
    """A specification as stores keep it: equal specifications give equal bytes."""
    return to_message(spec, run_pb2.RunSpec()).SerializeToString(deterministic=True)


def spec_from_bytes(data: bytes) -> RunSpec:
    """A specification out of a store. Raises JournalCorrupt."""
    try:
        return from_message(run_pb2.RunSpec.FromString(data), RunSpec)
    except (DecodeError, InvalidArgument) as error:
        raise JournalCorrupt("a stored run specification does not parse; it was written by another version") from error


def failure_to_bytes(failure: RunFailure) -> bytes:
    """A failure as stores keep it."""
    return to_message(failure, run_pb2.RunFailure()).SerializeToString(deterministic=True)


def failure_from_bytes(data: bytes) -> RunFailure:
    """A failure out of a store. Raises JournalCorrupt."""
    try:
        return from_message(run_pb2.RunFailure.FromString(data), RunFailure)
    except (DecodeError, InvalidArgument) as error:
        raise JournalCorrupt("a stored run failure does not parse; it was written by another version") from error


def run_to_bytes(run: Run) -> bytes:
    """A run as it is kept beside its journal."""
    return to_message(run, run_pb2.Run()).SerializeToString(deterministic=True)


def run_from_bytes(data: bytes) -> Run:
    """A run out of what is kept beside its journal. Raises JournalCorrupt."""
    try:
        return from_message(run_pb2.Run.FromString(data), Run)
    except (DecodeError, InvalidArgument) as error:
        raise JournalCorrupt("a kept run does not parse; it was written by another version") from error
