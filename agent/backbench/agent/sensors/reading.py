"""What the text of a file says: a whole number, a name, or why neither. No text becomes a made-up number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from backbench.agent.sensors.base import Unread, Value, unread
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

NO_NUMBER = Unread("EILSEQ")
OUT_OF_RANGE = Unread("ERANGE")
_NUMBER = re.compile(rb"\s*([+-]?[0-9]{1,18})\s*")
_LIMIT = 1 << 63
"""Values travel as int64."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A channel and how its value is come by."""

    channel: SensorChannel
    ask: Callable[[], Value]


def content(tree: Tree, path: str) -> bytes | Unread:
    """What is in a file now, or why that cannot be told."""
    try:
        return tree.read(path)
    except OSError as error:
        return unread(error)


def number(text: bytes | Unread, times: int = 1) -> Value:
    """The one decimal number that a text consists of, scaled to the channel's unit."""
    if isinstance(text, Unread):
        return text
    found = _NUMBER.fullmatch(text)
    return NO_NUMBER if found is None else bounded(int(found[1]) * times)


def read_number(tree: Tree, path: str, times: int = 1) -> Value:
    """`number` of a file's content."""
    return number(content(tree, path), times)


def field(text: bytes | Unread, key: str) -> Value:
    """The number behind `key:` in one of many lines, in bytes where it is in kB; a line cut short has none."""
    if isinstance(text, Unread):
        return text
    behind = (b"\n" + text).partition(f"\n{key}:".encode())[2]
    said, end, _ = behind.partition(b"\n")
    if not end:
        return NO_NUMBER
    size = said.removesuffix(b" kB")
    return number(size, 1 if size == said else 1024)


def bounded(value: int) -> Value:
    """A value, if it can travel."""
    return value if -_LIMIT <= value < _LIMIT else OUT_OF_RANGE


def read_word(tree: Tree, path: str) -> str:
    """A name in a file, with what is no letter, digit, "-" or "_" made "_"; empty where there is none to read."""
    text = content(tree, path)
    if isinstance(text, Unread):
        return ""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text.strip(b" \t\n\0").decode("utf-8", "replace")).strip("_")


def found(tree: Tree, pattern: str) -> list[str]:
    """The paths that match; none where the folder cannot be listed."""
    try:
        return tree.glob(pattern)
    except OSError:
        return []


def first_found(tree: Tree, patterns: Iterable[str]) -> str | None:
    """The first path of the first pattern that matches anything."""
    return next((path for pattern in patterns for path in found(tree, pattern)), None)


def total(values: Iterable[Value]) -> Value:
    """The sum; unreadable if a part of it is."""
    result = 0
    for value in values:
        if isinstance(value, Unread):
            return value
        result += value
    return bounded(result)


def any_positive(values: Iterable[Value]) -> Value:
    """1 if a value is above 0, 0 if none is; where that hangs on one that is unreadable, that."""
    unknown: Unread | None = None
    for value in values:
        if isinstance(value, Unread):
            unknown = unknown or value
        elif value > 0:
            return 1
    return unknown or 0


def numbered(name: str, taken: Iterable[str]) -> str:
    """The name, or with "_2", "_3", ... if others have it already."""
    if name not in taken:
        return name
    place = 2
    while f"{name}_{place}" in taken:
        place += 1
    return f"{name}_{place}"
