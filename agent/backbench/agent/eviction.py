"""What is dropped where room is needed: what was not used for longest, and nothing that is in use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Droppable:
    """A file that may be dropped; those that are `abandoned` go before all others."""

    path: Path
    size_bytes: int
    used_unix_ns: int
    abandoned: bool = False


def enough_of(droppable: Iterable[Droppable], excess_bytes: int) -> tuple[Droppable, ...] | None:
    """The files to drop, so that `excess_bytes` become free; None where all of them are too few.

    >>> enough_of([], 0)
    ()
    """
    chosen: list[Droppable] = []
    freed = 0
    for each in sorted(droppable, key=lambda each: (not each.abandoned, each.used_unix_ns)):
        if freed >= excess_bytes:
            break
        chosen.append(each)
        freed += each.size_bytes
    return tuple(chosen) if freed >= excess_bytes else None
