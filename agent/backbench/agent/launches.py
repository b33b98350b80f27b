"""What the launches of a run are: one after the other the same, or steps of a search that depends on what came out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass

from backbench.domain.arrivals import HIGHEST_RATE_MHZ, LOWEST_RATE_MHZ
from backbench.domain.frame import OUTCOME_NUMBERS, FrameBlock, FrameOutcome, FrameTag
from backbench.domain.run import SECOND_NS, RunSpec, Scenario, ScenarioName

PROBE_LIMIT = 14
"""Launches of a sweep, at most."""
_COMPLETED = OUTCOME_NUMBERS[FrameOutcome.COMPLETED]
_CAPACITY_FRAMES = 200
_CLOSE = 1.02
_LOWEST_SHARE = 64

Steps = Generator["Setting", "Outcome", None]
"""Gives a setting, is sent the outcome of the launch, gives the next one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How one launch is run: `streams` workers at once, `rate_mhz` None back to back."""

    frame_count: int
    rate_mhz: int | None = None
    duration_ns: int | None = None
    streams: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the timed frames of a launch came to.

    `missed` are those that were late, dropped or failed; `service_ns` is the mean time of the completed ones, None
    where there is none.
    """

    offered: int
    missed: int
    service_ns: float | None


class FramesLost(Exception):
    """Frames are missing or doubled: offered = completed + dropped + errored does not hold."""


class Tally:
    """Counts the timed frames of one launch: how many were late, dropped or failed."""

    def __init__(self, deadline_ns: int | None) -> None:
        self._deadline_ns = deadline_ns
        self._missed = self._service_ns = 0
        self._ended: Counter[int] = Counter()

    def add(self, block: FrameBlock) -> None:
        """Count a block."""
        for place, outcome in enumerate(block.outcome):
            if block.tags[place] & FrameTag.WARM_UP:
                continue
            self._ended[outcome] += 1
            due, begun, done = block.due_ns[place], block.dequeued_ns[place], block.done_ns[place]
            if outcome != _COMPLETED or due is None or begun is None or done is None:
                self._missed += 1
                continue
            self._service_ns += done - begun
            self._missed += self._deadline_ns is not None and done - due > self._deadline_ns

    def outcome(self) -> Outcome:
        """What it came to."""
        completed = self._ended[_COMPLETED]
        return Outcome(self._ended.total(), self._missed, self._service_ns / completed if completed else None)

    def check(self, offered: int) -> None:
        """Raises FramesLost unless of so many frames each one ended: completed, dropped or errored."""
        ended = sum(self._ended[number] for number in OUTCOME_NUMBERS.values())
        if not offered == ended == self._ended.total():
            raise FramesLost(f"{offered} frames arrived and {ended} of {self._ended.total()} rows have an outcome")


def steps(spec: RunSpec, frame_limit: int) -> Steps:
    """The launches of a run, in order."""
    scenario = spec.scenario
    if scenario.name is ScenarioName.SWEEP:
        yield from _sweep(scenario)
    elif scenario.name is ScenarioName.STREAMS:
        for count in stream_counts(scenario.streams or 1):
            yield _setting(spec, frame_limit, count)
    else:
        for _ in range(spec.launches):
            yield _setting(spec, frame_limit, 1)


def stream_counts(most: int) -> list[int]:
    """How many engines run at once in each step: 1, 2, 4 and so on, and at last `most`.

    >>> stream_counts(6)
    [1, 2, 4, 6]
    """
    doubled = [1 << power for power in range(most.bit_length())]
    return [*(count for count in doubled if count < most), most]


def _setting(spec: RunSpec, frame_limit: int, streams: int) -> Setting:
    scenario = spec.scenario
    rate = scenario.rate_mhz
    if scenario.duration_ns is None:
        return Setting(scenario.frame_count or 1, rate, None, streams)
    most = frame_limit - scenario.warmup_frame_count
    if rate is not None:
        most = min(most, math.ceil(scenario.duration_ns * rate / (1000 * SECOND_NS)))
    return Setting(most, rate, scenario.duration_ns, streams)


def _sweep(scenario: Scenario) -> Steps:
    """Bisect between the highest rate that held and the lowest that did not, until they lie within 2 %.

    Where no highest rate is given, frames back to back tell what the device could do at best; above the highest rate
    at which frames can arrive nothing is tried.
    """
    frames, left = scenario.frame_count or 1, PROBE_LIMIT
    highest = scenario.rate_mhz
    if highest is None:
        outcome = yield Setting(min(frames, _CAPACITY_FRAMES))
        left -= 1
        if not outcome.service_ns:
            return
        highest = min(max(math.floor(10**12 / outcome.service_ns), LOWEST_RATE_MHZ), HIGHEST_RATE_MHZ)
    held, failed, rate = 0, 0, highest
    while left:
        left -= 1
        outcome = yield Setting(frames, rate)
        if outcome.missed * 1_000_000 <= (scenario.miss_ratio_ppm or 0) * outcome.offered:
            held = rate
        else:
            failed = rate
        if not failed or (held and failed <= held * _CLOSE) or failed * _LOWEST_SHARE < highest:
            return
        rate = round(math.sqrt(held * failed)) if held else failed // 2
        if rate in (0, held, failed):
            return
