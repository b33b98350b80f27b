"""Run events to messages, to journal bytes, and back."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from backbench.domain.errors import JournalCorrupt
from backbench.domain.event import Happening, LaunchReport, LogLine, Progress, RunEvent, RunResult, StateChange
from backbench.domain.frame import FrameBlock
from backbench.domain.telemetry import TelemetryBlock
from backbench.v1 import run_pb2
from backbench.wire.columns import frames_from_pb, frames_to_pb, telemetry_from_pb, telemetry_to_pb
from backbench.wire.mapping import from_message, to_message

_PLAIN: dict[str, type[StateChange | Progress | LogLine | LaunchReport | RunResult]] = {
    "state_change": StateChange,
    "progress": Progress,
    "log": LogLine,
    "launch": LaunchReport,
    "result": RunResult,
}
_FIELD_OF = {cls: field for field, cls in _PLAIN.items()}


def event_to_pb(event: RunEvent) -> run_pb2.RunEvent:
    """The message of an event."""
    message = run_pb2.RunEvent(sequence=event.sequence or 0, time_ns=event.time_ns, time_unix_ns=event.time_unix_ns)
    happening = event.event
    if isinstance(happening, FrameBlock):
        message.frames.CopyFrom(frames_to_pb(happening))
    elif isinstance(happening, TelemetryBlock):
        message.telemetry.CopyFrom(telemetry_to_pb(happening))
    else:
        field = getattr(message, _FIELD_OF[type(happening)])
        field.SetInParent()
        to_message(happening, field)
    return message


def event_from_pb(message: run_pb2.RunEvent) -> RunEvent:
    """The event in a message. Raises JournalCorrupt when it holds none that this version knows."""
    return RunEvent(message.sequence or None, message.time_ns, message.time_unix_ns, _happening(message))


def _happening(message: run_pb2.RunEvent) -> Happening:
    field = message.WhichOneof("event")
    if field is None:
        raise JournalCorrupt(f"event {message.sequence} holds nothing that this version knows; update Backbench")
    if field == "frames":
        return frames_from_pb(message.frames)
    if field == "telemetry":
        return telemetry_from_pb(message.telemetry)
    return from_message(getattr(message, field), _PLAIN[field])


def event_to_bytes(event: RunEvent) -> bytes:
    """An event as journals keep it."""
    return event_to_pb(event).SerializeToString(deterministic=True)


def event_from_bytes(data: bytes) -> RunEvent:
    """An event out of a journal."""
    try:
        message = run_pb2.RunEvent.FromString(data)
    except DecodeError as error:
        raise JournalCorrupt(f"a journal record does not parse ({error}); it was written by another version") from error
    return event_from_pb(message)


def kind_in_bytes(data: bytes) -> str | None:
    """Which event a journal's record holds, by its field's name; None when it is none that this version knows."""
    try:
        return run_pb2.RunEvent.FromString(data).WhichOneof("event")
    except DecodeError:
        return None
