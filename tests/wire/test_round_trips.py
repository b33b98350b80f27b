"""Every noun of the domain survives the way over the wire. The examples are made from its type hints."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

import backbench.domain
from backbench.domain.errors import InvalidArgument, JournalCorrupt
from backbench.domain.event import Happening, LaunchReport, OutputCheck, Progress, RunEvent, StateChange
from backbench.domain.frame import NULLABLE_COLUMNS, FrameBlock
from backbench.domain.preprocess import Preprocess
from backbench.domain.run import RunState
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn
from backbench.v1 import artifact_pb2, device_pb2, frame_pb2, run_pb2, security_pb2, telemetry_pb2
from backbench.wire.columns import frames_from_pb, frames_to_pb, telemetry_from_pb, telemetry_to_pb
from backbench.wire.event import event_from_bytes, event_from_pb, event_to_bytes, event_to_pb
from backbench.wire.mapping import from_message, to_message

MODULES = (artifact_pb2, device_pb2, frame_pb2, run_pb2, security_pb2, telemetry_pb2)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOAT = st.floats(allow_nan=False)

NOT_ON_THE_WIRE = {"Budget"}
OTHER_NAMES = {"AgentSecurity": "GetSecurityResponse"}
WITH_COLUMNS = {"FrameBlock", "TelemetryBlock", "TelemetryColumn", "RunEvent"}


def nouns() -> Iterator[type]:
    for module in pkgutil.iter_modules(backbench.domain.__path__):
        for value in vars(importlib.import_module(f"backbench.domain.{module.name}")).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__.endswith(module.name):
                yield value


NOUNS = {noun.__name__: noun for noun in nouns()}


def message_class(name: str) -> type[Message]:
    for module in MODULES:
        if hasattr(module, OTHER_NAMES.get(name, name)):
            return typing.cast("type[Message]", getattr(module, OTHER_NAMES.get(name, name)))
    raise LookupError(f"backbench.v1 has no message {name}; add one, or list the noun in NOT_ON_THE_WIRE")


def scalars(field: FieldDescriptor, hint: Any) -> st.SearchStrategy[Any]:
    if hint is int:
        return INT32 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else INT64
    return {str: TEXT, bytes: st.binary(max_size=50), float: FLOAT, bool: st.booleans()}[hint]


def values(field: FieldDescriptor, hint: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one return a kind
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        (inner,) = (part for part in arguments if part is not types.NoneType)
        some = values(field, inner)
        # In a plain field None travels as proto3's default, so an optional scalar never holds that.
        return st.none() | (some if field.has_presence else some.filter(bool))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(field, arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(field, argument) for argument in arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        assert field.message_type is not None
        entry = field.message_type.fields_by_name["value"]
        return st.dictionaries(TEXT, values(entry, arguments[1]), max_size=3)
    if dataclasses.is_dataclass(hint):
        assert field.message_type is not None
        return instances(typing.cast("type", hint), field.message_type)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    return scalars(field, hint)


def instances(cls: type, message: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    fields = {field.name: values(message.fields_by_name[field.name], hints[field.name]) for field in _fields(cls)}
    return st.builds(cls, **fields)


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def instances_of(name: str) -> st.SearchStrategy[Any]:
    return instances(NOUNS[name], message_class(name).DESCRIPTOR)


@st.composite
def frame_blocks(draw: st.DrawFn) -> FrameBlock:
    rows = draw(st.integers(0, 4))
    times = st.none() | st.integers(0, 2**63 - 1)
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(FrameBlock):
        if field.name in NULLABLE_COLUMNS:
            length = draw(st.sampled_from((0, rows)))
            columns[field.name] = tuple(draw(st.lists(times, min_size=length, max_size=length)))
        elif field.name not in ("launch", "stream"):
            columns[field.name] = tuple(draw(st.lists(st.integers(0, 2**31 - 1), min_size=rows, max_size=rows)))
    return FrameBlock(launch=draw(INT32), stream=draw(INT32), **columns)


@st.composite
def telemetry_blocks(draw: st.DrawFn) -> TelemetryBlock:
    times = draw(st.lists(INT64, max_size=4))
    column = st.lists(st.none() | INT64, min_size=len(times), max_size=len(times)).map(tuple)
    return TelemetryBlock(
        tuple(times), tuple(draw(st.lists(st.builds(TelemetryColumn, TEXT, TEXT, column), max_size=3)))
    )


PLAIN_HAPPENINGS = [cls.__name__ for cls in typing.get_args(Happening) if cls.__name__ not in WITH_COLUMNS]
HAPPENINGS = st.one_of(frame_blocks(), telemetry_blocks(), *map(instances_of, PLAIN_HAPPENINGS))
EVENTS = st.builds(RunEvent, st.none() | st.integers(1, 2**63 - 1), INT64, INT64, HAPPENINGS)


@pytest.mark.parametrize("name", sorted(set(NOUNS) - NOT_ON_THE_WIRE - WITH_COLUMNS))
@settings(max_examples=40)
@given(data=st.data())
def test_a_noun_comes_back_from_the_wire_as_it_was(name: str, data: st.DataObject) -> None:
    noun = data.draw(instances_of(name))
    sent = to_message(noun, message_class(name)()).SerializeToString()
    received = message_class(name).FromString(sent)
    assert from_message(received, NOUNS[name]) == noun


@settings(max_examples=200)
@given(event=EVENTS)
def test_an_event_comes_back_from_a_journal_as_it_was(event: RunEvent) -> None:
    assert event_from_bytes(event_to_bytes(event)) == event


@given(block=frame_blocks())
def test_frames_come_back_as_they_were(block: FrameBlock) -> None:
    assert frames_from_pb(frame_pb2.FrameBlock.FromString(frames_to_pb(block).SerializeToString())) == block


@given(block=telemetry_blocks())
def test_telemetry_comes_back_as_it_was(block: TelemetryBlock) -> None:
    sent = telemetry_to_pb(block).SerializeToString()
    assert telemetry_from_pb(telemetry_pb2.TelemetryBlock.FromString(sent)) == block


@pytest.mark.parametrize("name", sorted(set(NOUNS) - NOT_ON_THE_WIRE - {"RunEvent"}))
def test_a_noun_and_its_message_have_the_same_fields(name: str) -> None:
    of_noun = {field.name for field in _fields(NOUNS[name])}
    of_message = set(message_class(name).DESCRIPTOR.fields_by_name)
    assert of_noun == of_message - ({"unread"} if name == "TelemetryColumn" else set())


def enum_fields() -> Iterator[tuple[str, str]]:
    for name in sorted(set(NOUNS) - NOT_ON_THE_WIRE):
        for field in message_class(name).DESCRIPTOR.fields:
            if field.enum_type is not None:
                yield name, field.name


@pytest.mark.parametrize(("name", "field"), list(enum_fields()))
@settings(max_examples=5)
@given(data=st.data())
def test_an_enum_value_of_a_newer_version_is_refused_with_the_remedy(
    name: str, field: str, data: st.DataObject
) -> None:
    message = to_message(data.draw(instances_of(name)), message_class(name)())
    setattr(message, field, 9999)
    with pytest.raises(InvalidArgument, match=rf"{field} 9999 is not a .*same version"):
        from_message(message, NOUNS[name])


def test_an_enum_that_was_not_set_is_refused_unless_it_may_be_absent() -> None:
    with pytest.raises(InvalidArgument, match="state 0"):
        from_message(run_pb2.StateChange(), StateChange)
    assert from_message(run_pb2.Scenario(name=run_pb2.SCENARIO_NAME_PACED), NOUNS["Scenario"]).queue_policy is None


@pytest.mark.parametrize("number", [0.0, None, 0.25])
def test_an_error_of_nothing_is_told_from_one_that_cannot_be_told(number: float | None) -> None:
    check = OutputCheck("logits", number, number, True, 5e-3, True, 3, "torch")
    sent = to_message(check, run_pb2.OutputCheck()).SerializeToString()
    assert from_message(run_pb2.OutputCheck.FromString(sent), OutputCheck) == check


def test_a_launch_of_an_older_agent_has_no_output_checks() -> None:
    message = run_pb2.LaunchReport(launch=1, purpose=run_pb2.LAUNCH_PURPOSE_TIMED)
    assert from_message(message, LaunchReport).output_checks == ()


@pytest.mark.parametrize("count", [0, 1, 4])
def test_three_channels_have_three_means(count: int) -> None:
    message = run_pb2.Preprocess(mean=[0.5] * count, std=[0.5] * 3, interpolation="bilinear", crop_ratio=1)
    with pytest.raises(InvalidArgument, match=f"mean has {count} values instead of 3"):
        from_message(message, Preprocess)


def test_frame_columns_of_different_lengths_are_corrupt() -> None:
    with pytest.raises(JournalCorrupt, match="2 values of compute_ns for 1 frames"):
        frames_from_pb(frame_pb2.FrameBlock(index=[0], compute_ns=[1, 2]))


def test_telemetry_columns_of_different_lengths_are_corrupt() -> None:
    message = telemetry_pb2.TelemetryBlock(time_ns=[1, 2])
    message.columns.add(channel="load", values=[1])
    with pytest.raises(JournalCorrupt, match="1 values of load for 2 samples"):
        telemetry_from_pb(message)


def test_an_unread_place_outside_a_column_is_harmless() -> None:
    message = telemetry_pb2.TelemetryBlock(time_ns=[1])
    message.columns.add(channel="load", values=[7], unread=[5, -1])
    assert telemetry_from_pb(message).columns[0].values == (7,)


def test_progress_has_no_place_in_the_journal() -> None:
    message = event_to_pb(RunEvent(None, 1, 2, Progress("measure")))
    assert message.sequence == 0
    assert event_from_pb(message).sequence is None


def test_an_empty_happening_is_still_told_from_none_at_all() -> None:
    message = event_to_pb(RunEvent(None, 0, 0, Progress("")))
    assert event_from_bytes(message.SerializeToString()).event == Progress("")


def test_an_event_of_a_newer_version_is_refused_with_the_remedy() -> None:
    with pytest.raises(JournalCorrupt, match="event 3 holds nothing that this version knows; update Backbench"):
        event_from_bytes(run_pb2.RunEvent(sequence=3).SerializeToString())


def test_bytes_that_are_no_event_are_corrupt() -> None:
    with pytest.raises(JournalCorrupt, match="does not parse"):
        event_from_bytes(b"\xff\xff\xff")


@given(st.binary(max_size=64))
def test_no_bytes_make_the_reader_of_events_fail_otherwise(data: bytes) -> None:
    with contextlib.suppress(JournalCorrupt, InvalidArgument):
        event_from_bytes(data)


def test_an_event_keeps_its_bytes() -> None:
    event = RunEvent(7, 1_000_000_007, 1_700_000_000_000_000_000, StateChange(RunState.RUNNING))
    assert event_to_bytes(event).hex() == "0807108794ebdc03188080a8b1e39fe7cb1722020803"


def test_frames_keep_their_bytes() -> None:
    block = FrameBlock(2, (0, 1), (5, None), (6, None), (9, None), (1, 4), (1, 0), (0, 1), compute_ns=(3, None))
    golden = "080110011801322208021a02000222020a012a020c01320212014a0206016a020104720201007a020001"
    assert event_to_bytes(RunEvent(1, 1, 1, block)).hex() == golden
