"""When frames arrive: whole nanoseconds from the start of a window, never added up from a rounded period."""

from __future__ import annotations

import re

from backbench.domain.errors import InvalidArgument

LOWEST_RATE_MHZ = 1
HIGHEST_RATE_MHZ = 1_000_000
"""A thousand frames a second: above that the clock and the pacer take a share of a period that can be seen."""
MAX_ARRIVALS = 2_000_000
_WHOLE = re.compile(r"-?[0-9]{1,20}")
_LONGEST_NS = 24 * 3600 * 10**9


def constant_due_ns(frame: int, rate_mhz: int) -> int:
    """The arrival of a frame at a constant rate: exact for every frame, so that nothing drifts.

    >>> [constant_due_ns(frame, 30_000) for frame in (0, 1, 2, 3)]
    [0, 33333333, 66666666, 100000000]
    """
    return frame * 10**12 // rate_mhz


def parse_trace(text: str) -> tuple[int, ...]:
    r"""Recorded arrivals: one whole number of nanoseconds a line, none smaller than the one before it.

    Empty lines and what follows a "#" are left out. The first arrival becomes 0. Raises InvalidArgument, naming the
    line.

    >>> parse_trace("# camera\n1000\n34000000\n")
    (0, 33999000)
    """
    times: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        if _WHOLE.fullmatch(words) is None:
            raise InvalidArgument(f'line {number}: "{words[:40]}" is not a whole number of nanoseconds')
        time = int(words)
        if times and time < times[-1]:
            raise InvalidArgument(
                f"line {number}: a negative gap: {time} comes after {times[-1]}; arrivals must not go back"
            )
        if times and time - times[0] > _LONGEST_NS:
            raise InvalidArgument(f"line {number}: more than 24 hours after the first arrival; shorten the trace")
        times.append(time)
        if len(times) > MAX_ARRIVALS:
            raise InvalidArgument(f"more than {MAX_ARRIVALS} arrivals; shorten the trace")
    if not times:
        raise InvalidArgument("no arrivals; write one time in nanoseconds a line")
    return tuple(time - times[0] for time in times)
