"""A recorded board on which something happens: what is set, and what starts to fail, at which millisecond.

about = "where this comes from"
base = "rpi4-undervolt"
loop_ms = 5000

[[at]]
ms = 1000
set = { "cmd/vcgencmd get_throttled" = "throttled=0x50005\\n" }
errno = { "sys/class/thermal/thermal_zone0/temp" = "EAGAIN" }
"""

from __future__ import annotations

import bisect
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.bundle import (
    BUNDLE_BYTES,
    Bundle,
    BundleTree,
    Content,
    State,
    is_errno,
    path_fault,
    printable,
)
from backbench.domain.errors import InvalidArgument

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = {"about", "base", "loop_ms", "at"}
_ENTRY_KEYS = {"ms", "set", "errno"}


@dataclass(frozen=True, slots=True)
class Moment:
    """What becomes different so long after the start."""

    ms: int
    changes: Mapping[str, Content]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A board and what happens to it, in the order of time; after `loop_ms`, if there is one, it begins again."""

    name: str
    about: str
    base: Bundle
    moments: tuple[Moment, ...]
    loop_ms: int | None = None


def parse_timeline(text: str, name: str, find_base: Callable[[str], Bundle]) -> Timeline:
    """The timeline that a TOML text describes. Raises InvalidArgument that names file and entry."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError is a number of thousands of digits, too
        raise InvalidArgument(printable(f"{name} is no TOML: {error}")) from error
    _check_keys(table, _KEYS, name)
    about, base, loop_ms = table.get("about", ""), table.get("base"), table.get("loop_ms")
    if not isinstance(about, str) or not about.strip():
        raise InvalidArgument(f'{name}: nothing says where it comes from; write about = "source: ..."')
    if not isinstance(base, str):
        raise InvalidArgument(f'{name}: base has to name a bundle, for example base = "rpi5-bookworm"')
    if loop_ms is not None and not _is_count(loop_ms, 1):
        raise InvalidArgument(f"{name}: loop_ms has to be a whole number above 0")
    entries = table.get("at", [])
    if not isinstance(entries, list):
        raise InvalidArgument(f"{name}: moments are written as [[at]]")
    try:
        board = find_base(base)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: base: {error.message}") from error
    moments = [_moment(entry, f"{name}, entry {place} of [[at]]") for place, entry in enumerate(entries, 1)]
    return Timeline(name, about.strip(), board, tuple(sorted(moments, key=lambda moment: moment.ms)), loop_ms)


def read_timeline(path: Path, find_base: Callable[[str], Bundle]) -> Timeline:
    """The timeline in a file, named as the file is. Raises InvalidArgument."""
    try:
        with path.open("rb") as file:
            data = file.read(BUNDLE_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidArgument(f"{path} is not UTF-8 text") from error
    if len(data) > BUNDLE_BYTES:
        raise InvalidArgument(f"{path} is too big for a timeline: more than {BUNDLE_BYTES} bytes")
    timeline = parse_timeline(text, str(path), find_base)
    return Timeline(path.stem, timeline.about, timeline.base, timeline.moments, timeline.loop_ms)


class TimelineTree(BundleTree):
    """The board as it is at this moment, counted from `epoch_ns` on CLOCK_MONOTONIC."""

    def __init__(self, timeline: Timeline, epoch_ns: int, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        super().__init__(timeline.base)
        self._epoch_ns = epoch_ns
        self._clock_ns = clock_ns
        self._loop_ns = timeline.loop_ms and timeline.loop_ms * 1_000_000
        self._times_ns = [moment.ms * 1_000_000 for moment in timeline.moments]
        self._states = [self._state]
        board = timeline.base
        for moment in timeline.moments:
            board = board.having(moment.changes)
            self._states.append(State(board.files))

    def _now(self) -> State:
        elapsed_ns = max(0, self._clock_ns() - self._epoch_ns)
        if self._loop_ns:
            elapsed_ns %= self._loop_ns
        return self._states[bisect.bisect_right(self._times_ns, elapsed_ns)]


def _moment(entry: Any, place: str) -> Moment:
    if not isinstance(entry, dict):
        raise InvalidArgument(f"{place} is no table")
    _check_keys(entry, _ENTRY_KEYS, place)
    ms = entry.get("ms")
    if not isinstance(ms, int) or not _is_count(ms, 0):
        raise InvalidArgument(f"{place}: ms has to be a whole number of milliseconds from the start")
    changes: dict[str, Content] = {}
    for key in ("set", "errno"):
        for path, value in _texts(entry, key, place).items():
            if path in changes:
                raise InvalidArgument(printable(f'{place}: "{path}" is both in set and in errno'))
            if fault := path_fault(path):
                raise InvalidArgument(printable(f'{place}: "{path}" {fault}'))
            if key == "errno" and not is_errno(value):
                raise InvalidArgument(printable(f'{place}: unknown errno "{value}"; write for example "EAGAIN"'))
            changes[path] = Unread(value) if key == "errno" else value.encode()
    return Moment(ms, changes)


def _texts(entry: Mapping[str, Any], key: str, place: str) -> Mapping[str, str]:
    texts = entry.get(key, {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise InvalidArgument(f'{place}: {key} has to be a table of texts, {{ "sys/class/..." = "..." }}')
    return texts


def _check_keys(table: Mapping[str, Any], known: set[str], place: str) -> None:
    if unknown := sorted(table.keys() - known):
        raise InvalidArgument(printable(f'{place}: unknown key "{unknown[0]}"; there are {", ".join(sorted(known))}'))


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= 10**9
