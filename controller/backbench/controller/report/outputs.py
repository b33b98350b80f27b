"""How far a run's outputs are from their reference, as a part of its document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from backbench.domain.event import LaunchReport, OutputCheck


def outputs_document(launches: Sequence[LaunchReport]) -> dict[str, Any] | None:
    """The checks of all launches together, one an output and the worst of them each; None where nothing was checked."""
    worst: dict[str, OutputCheck] = {}
    for launch in launches:
        for check in launch.output_checks:
            known = worst.get(check.name)
            if known is None or _badness(check) > _badness(known):
                worst[check.name] = check
    if not worst:
        return None
    checks = list(worst.values())
    return {
        "checks": [_row(check) for check in checks],
        "frame_count": checks[0].frame_count,
        "reference": checks[0].made_by,
        "passed": all(check.passed for check in checks),
    }


def _badness(check: OutputCheck) -> tuple[bool, float]:
    error = check.max_relative_error
    return (not check.passed, math.inf if error is None else error)


def _row(check: OutputCheck) -> dict[str, Any]:
    row = asdict(check)
    for name in ("frame_count", "made_by"):  # the same for all of them
        row.pop(name)
    return row
