"""One rule for every conversion between a domain dataclass and the message of the same shape.

A dataclass field and the message field have the same name. Enums map by name (`RunState.DONE` is `RUN_STATE_DONE`),
tuples to repeated fields, mappings to maps, dataclasses to messages. A field of type `X | None` maps None to the absent
message or the absent `optional` field; in a plain field None is proto3's default, so that is used only where 0 or "" is
not a value.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from google.protobuf.message import Message

from backbench.domain.errors import InvalidArgument

Noun = TypeVar("Noun")
Pb = TypeVar("Pb", bound=Message)


def to_message(noun: Any, message: Pb) -> Pb:
    """Fill a fresh message from a dataclass and return it."""
    for plan in _plans(type(noun)):
        value = getattr(noun, plan.name)
        if value is not None:
            plan.put(message, plan.name, value)
    return message


def from_message(message: Message, cls: type[Noun]) -> Noun:
    """A dataclass from a message.

    Raises InvalidArgument for an enum value that this version does not know and for a list of a wrong fixed length.
    """
    return cls(**{plan.name: plan.get(message, plan.name) for plan in _plans(cls)})


@dataclasses.dataclass(frozen=True)
class _Plan:
    name: str
    put: Callable[[Message, str, Any], None]
    get: Callable[[Message, str], Any]


_PLANS: dict[type, tuple[_Plan, ...]] = {}


def _plans(cls: type) -> tuple[_Plan, ...]:
    plans = _PLANS.get(cls)
    if plans is None:
        hints = typing.get_type_hints(cls)
        plans = _PLANS[cls] = tuple(_plan(field.name, hints[field.name]) for field in dataclasses.fields(cls))
    return plans


def _plan(name: str, hint: Any) -> _Plan:
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
        optional = True
    origin = typing.get_origin(hint)
    if origin is tuple:
        item, *rest = typing.get_args(hint)
        return _repeated(name, item, None if rest == [Ellipsis] else 1 + len(rest))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _Plan(name, lambda m, n, v: getattr(m, n).update(v), lambda m, n: dict(getattr(m, n)))
    if dataclasses.is_dataclass(hint):
        return _nested(name, typing.cast("type", hint), optional)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(name, hint, optional)
    return _Plan(name, setattr, _optional_scalar if optional else getattr)


def _optional_scalar(message: Message, field: str) -> Any:
    if message.DESCRIPTOR.fields_by_name[field].has_presence:
        return getattr(message, field) if message.HasField(field) else None
    return getattr(message, field) or None


def _repeated(name: str, item: Any, length: int | None) -> _Plan:
    if dataclasses.is_dataclass(item):
        cls = typing.cast("type", item)

        def put(message: Message, field: str, values: Any) -> None:
            repeated = getattr(message, field)
            for value in values:
                to_message(value, repeated.add())

        return _Plan(name, put, lambda m, n: tuple(from_message(each, cls) for each in getattr(m, n)))

    def get(message: Message, field: str) -> Any:
        values = tuple(getattr(message, field))
        if length is not None and len(values) != length:
            raise InvalidArgument(f"{field} has {len(values)} values instead of {length}")
        return values

    return _Plan(name, lambda m, n, v: getattr(m, n).extend(v), get)


def _nested(name: str, cls: type, optional: bool) -> _Plan:
    def put(message: Message, field: str, value: Any) -> None:
        inner = getattr(message, field)
        inner.SetInParent()
        to_message(value, inner)

    def get(message: Message, field: str) -> Any:
        if optional and not message.HasField(field):
            return None
        return from_message(getattr(message, field), cls)

    return _Plan(name, put, get)


def _enum(name: str, cls: type[Enum], optional: bool) -> _Plan:
    numbers, members = _enum_tables(cls)

    def get(message: Message, field: str) -> Any:
        number = getattr(message, field)
        if number == 0 and optional:
            return None
        if number not in members:
            raise InvalidArgument(
                f"{field} {number} is not a {cls.__name__} that this version knows; "
                "bring agent and controller to the same version"
            )
        return members[number]

    return _Plan(name, lambda m, n, v: setattr(m, n, numbers[v]), get)


def _enum_tables(cls: type[Enum]) -> tuple[dict[Enum, int], dict[int, Enum]]:
    from backbench.v1 import artifact_pb2, frame_pb2, run_pb2, security_pb2

    for module in (run_pb2, artifact_pb2, frame_pb2, security_pb2):
        descriptor = module.DESCRIPTOR.enum_types_by_name.get(cls.__name__)
        if descriptor is not None:
            break
    else:
        raise LookupError(f"no enum {cls.__name__} in backbench.v1")
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()
    numbers = {member: descriptor.values_by_name[f"{prefix}_{member.name}"].number for member in cls}
    return numbers, {number: member for member, number in numbers.items()}
