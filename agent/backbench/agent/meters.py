"""What an agent has done since it started, in plain numbers: counted always, shown where somebody asks."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from backbench.domain.frame import OUTCOME_NUMBERS, FrameBlock
from backbench.domain.run import RunFailure

_OUTCOMES = {number: outcome.value for outcome, number in OUTCOME_NUMBERS.items()}


@dataclass(slots=True)
class Meters:
    """Counts; `calls` by method and status, where calls are counted."""

    started_unix_ns: int = field(default_factory=time.time_ns)
    upload_bytes: int = 0
    frames: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)

    def measured(self, block: FrameBlock) -> None:
        """Count frames by their outcome, those of the warm-up included."""
        for number, count in Counter(block.outcome).items():
            self.frames[_OUTCOMES.get(number, "pending")] += count

    def failed(self, failure: RunFailure) -> None:
        """Count a run that failed by its reason."""
        self.failures[failure.reason.value] += 1
