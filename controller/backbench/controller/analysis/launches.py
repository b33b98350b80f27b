"""How far the launches of a run agree: what is fixed when a process starts differs only between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.dependence import effective_count
from backbench.controller.analysis.percentiles import QUANTILES, enough, nearest_rank


def launch_spread(launches: Sequence[NDArray[np.int64]]) -> dict[str, Any] | None:
    """The spread of service times in ns, one array a launch; launches without frames are left out, None if all are.

    `launches` are {n, p50_ms, p99_ms or None}. `between_cv` is the standard deviation of the launches' p50 over their
    mean, `within_cv` that of frames around their launch's mean over the mean of the means. `p50_interval_ms` is
    [lowest, highest] p50: it holds the median launch's p50 with probability `p50_interval_coverage` = 1 - 2^(1 - R),
    for any distribution. `spread` is highest over lowest, less 1. What needs two launches is None with one.
    """
    launches = [launch for launch in launches if len(launch)]
    if not launches:
        return None
    rows = [_row(launch) for launch in launches]
    p50 = np.array([row["p50_ms"] for row in rows])
    several = len(rows) > 1
    return {
        "count": len(rows),
        "launches": rows,
        "between_cv": _ratio(float(np.std(p50, ddof=1)), float(np.mean(p50))) if several else None,
        "within_cv": _within_cv(launches),
        "p50_interval_ms": [float(p50.min()), float(p50.max())] if several else None,
        "p50_interval_coverage": 1 - 2.0 ** (1 - len(rows)) if several else None,
        "spread": _ratio(float(p50.max() - p50.min()), float(p50.min())) if several else None,
    }


def _row(launch: NDArray[np.int64]) -> dict[str, Any]:
    ascending = np.sort(launch)
    p50, p99 = (nearest_rank(ascending, QUANTILES[name]) / 1e6 for name in ("p50", "p99"))
    carried = enough(effective_count(launch), QUANTILES["p99"])
    return {"n": len(launch), "p50_ms": p50, "p99_ms": p99 if carried else None}


def _within_cv(launches: Sequence[NDArray[np.int64]]) -> float | None:
    freedom = sum(len(launch) - 1 for launch in launches)
    if freedom == 0:
        return None
    means = [float(np.mean(launch)) for launch in launches]
    squares = sum(float(np.sum((launch - mean) ** 2)) for launch, mean in zip(launches, means, strict=True))
    return _ratio(float(np.sqrt(squares / freedom)), float(np.mean(means)))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
