"""Messages of any kind for hypothesis, made from the descriptors of the wire contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]

_DEEPEST = 4
_MANY = 3000
_INT_BITS = {
    FieldDescriptor.TYPE_INT32: (32, True), FieldDescriptor.TYPE_SINT32: (32, True),
    FieldDescriptor.TYPE_SFIXED32: (32, True), FieldDescriptor.TYPE_UINT32: (32, False),
    FieldDescriptor.TYPE_FIXED32: (32, False), FieldDescriptor.TYPE_INT64: (64, True),
    FieldDescriptor.TYPE_SINT64: (64, True), FieldDescriptor.TYPE_SFIXED64: (64, True),
    FieldDescriptor.TYPE_UINT64: (64, False), FieldDescriptor.TYPE_FIXED64: (64, False),
}  # fmt: skip
_ODD_TEXTS = (
    "", "\0", "a\0b", "../../../etc/passwd", "/etc/passwd", "C:\\x", ".", "..", "~", "%s%n{0}", "a" * 70_000,
    "\u202e\ufeff", "'; DROP TABLE run; --", "\n\r\t", "f" * 64, "F" * 64, "0" * 64, "0" * 63 + "g", "١" * 64,
    "-1", "9" * 40, "00000000-0000-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff",
    "00000000-0000-4000-8000-000000000000",
)  # fmt: skip


class Messages:
    """Strategies by message type; `known` gives values that mean something to the agent, by the name of a field."""

    def __init__(self, known: Mapping[str, tuple[Any, ...]]) -> None:
        self._known = known

    def of(self, descriptor: Descriptor, depth: int = 0) -> Strategy:
        """Messages of a type in which any field may be anything that its type can carry."""
        cls = GetMessageClass(descriptor)
        if depth >= _DEEPEST:
            return st.just(cls())
        fields: list[Any] = list(descriptor.fields)
        # One member of a oneof at most: a later one would only take the place of an earlier one.
        chosen = st.lists(st.sampled_from(fields), unique_by=lambda field: field.name) if fields else st.just([])
        return chosen.flatmap(lambda some: self._with(cls, some, depth))

    def altered(self, message: Message) -> Strategy:
        """A message that the agent would take, with one to three of its fields, at any depth, made into anything."""
        places = list(_places(message, ()))
        return st.lists(st.sampled_from(places), min_size=1, max_size=3).flatmap(
            lambda some: st.tuples(*(self._place(message, place) for place in some)).map(
                lambda changes: _changed(message, changes)
            )
        )

    def _place(self, message: Message, place: tuple[str, ...]) -> Strategy:
        holder = _holder(message, place)
        field: Any = holder.DESCRIPTOR.fields_by_name[place[-1]]
        return self._field(field, 1).map(lambda value: (place, field, value))

    def _with(self, cls: Callable[[], Message], fields: list[FieldDescriptor], depth: int) -> Strategy:
        values = st.tuples(*(self._field(field, depth + 1) for field in fields))
        return values.map(lambda given: _filled(cls(), fields, given))

    def _field(self, field: FieldDescriptor, depth: int) -> Strategy:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            key, value = kind.fields_by_name["key"], kind.fields_by_name["value"]
            return st.dictionaries(self._single(key, depth), self._single(value, depth), max_size=4)
        single = self._single(field, depth)
        if not field.is_repeated:
            return single
        long = single.map(lambda value: [value] * _MANY)
        return st.one_of(st.lists(single, max_size=4), long) if kind is None else st.lists(single, max_size=3)

    def _single(self, field: FieldDescriptor, depth: int) -> Strategy:
        if field.message_type is not None:
            return self.of(field.message_type, depth)
        known = () if field.type == FieldDescriptor.TYPE_ENUM else self._known.get(field.name, ())
        anything = _scalar(field)
        return st.one_of(st.sampled_from(known), anything) if known else anything


def _scalar(field: FieldDescriptor) -> Strategy:
    if field.type in _INT_BITS:
        bits, signed = _INT_BITS[field.type]
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        return st.one_of(st.sampled_from((low, high, 0, 1)), st.integers(low, high), st.integers(max(low, -9), 9))
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values]
        return st.one_of(st.sampled_from(numbers), st.integers(-(1 << 31), (1 << 31) - 1))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.one_of(st.binary(max_size=64), st.just(b"\0" * 70_000))
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.one_of(st.sampled_from(_ODD_TEXTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
    return st.one_of(
        st.floats(width=32 if field.type == FieldDescriptor.TYPE_FLOAT else 64), st.sampled_from((0.0, -1.0, 1.0, 1e30))
    )


def _filled(message: Message, fields: list[FieldDescriptor], values: tuple[Any, ...]) -> Message:
    for field, value in zip(fields, values, strict=True):
        _put(message, field, value)
    return message


def _put(message: Message, field: FieldDescriptor, value: Any) -> None:
    message.ClearField(field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        entries = getattr(message, field.name)
        for key, each in value.items():
            if kind.fields_by_name["value"].message_type is None:
                entries[key] = each
            else:
                entries[key].CopyFrom(each)
    elif field.is_repeated:
        getattr(message, field.name).extend(value)
    elif kind is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _places(message: Message, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = []
    for field in message.DESCRIPTOR.fields:
        found.append((*path, field.name))
        if field.message_type is not None and not field.is_repeated and message.HasField(field.name):
            found += _places(getattr(message, field.name), (*path, field.name))
    return found


def _holder(message: Message, place: tuple[str, ...]) -> Message:
    for name in place[:-1]:
        message = getattr(message, name)
    return message


def _changed(message: Message, changes: tuple[tuple[tuple[str, ...], FieldDescriptor, Any], ...]) -> Message:
    changed = type(message)()
    changed.CopyFrom(message)
    for place, field, value in changes:
        _put(_holder(changed, place), field, value)
    return changed
