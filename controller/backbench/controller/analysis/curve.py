"""A long launch slice by slice: latency beside temperature, clocks and power; its burst against its sustained pace."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbench.controller.analysis.drift import percentiles_ms, slope
from backbench.controller.analysis.percentiles import QUANTILES, nearest_rank
from backbench.controller.analysis.telemetry import Series, Telemetry, overlaps
from backbench.controller.analysis.throttle import Throttling

_SLICES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
_MOST_SLICES = 60
_BURST_NS = 10 * 10**9
_FEWEST_S = 30.0
_SECOND_NS = 10**9


def slices(
    done_ns: NDArray[np.int64], service_ns: NDArray[np.int64], telemetry: Telemetry, throttling: Throttling
) -> list[dict[str, Any]]:
    """A row a slice of 1 s, 2 s, 5 s ... an hour, at most 60 of them, from the first frame's start on.

    {at_s, length_s, n, p50_ms, p99_ms, temp_c, cpu_mhz, gpu_mhz, power_w, throttled}: means of what was read in the
    slice (of the processors' clocks the lowest), None for what was not; `throttled` the share of its time.
    """
    if len(done_ns) == 0:
        return []
    start, end = int((done_ns - service_ns).min()), int(done_ns.max())
    length = next((each for each in _SLICES if (end - start) / _SECOND_NS <= each * _MOST_SLICES), _SLICES[-1])
    hottest = telemetry.hottest()
    rows = []
    for place in range(max(-(-(end - start) // (length * _SECOND_NS)), 1)):
        since = start + place * length * _SECOND_NS
        until = min(since + length * _SECOND_NS, end)
        within = service_ns[(done_ns > since) & (done_ns <= since + length * _SECOND_NS)]
        rows.append(
            {
                "at_s": place * length,
                "length_s": (until - since) / _SECOND_NS,
                "n": len(within),
                **percentiles_ms(within),
                "temp_c": _mean(hottest, since, until, 1e3),
                "cpu_mhz": _lowest_mhz(telemetry, since, until),
                "gpu_mhz": _mean(telemetry.series.get("gpu.clock"), since, until, 1e6),
                "power_w": _mean(telemetry.series.get("power.total"), since, until, 1e3),
                "throttled": _share(throttling, since, until),
            }
        )
    return rows


def sustained(
    done_ns: NDArray[np.int64], service_ns: NDArray[np.int64], throttling: Throttling
) -> dict[str, Any] | None:
    """{burst_p50_ms, sustained_p50_ms, ratio, by}: before and after throttling set in, where it did, else the first
    10 s against the last third; None for a launch of less than 30 s without it.
    """
    if len(done_ns) == 0:
        return None
    start, end = int((done_ns - service_ns).min()), int(done_ns.max())
    onset = throttling.onset_ns[2] if throttling.onset_ns else None
    if onset is not None and start < onset < end:
        by, burst, lasting = "throttling", done_ns <= onset, done_ns > onset
    elif (end - start) / _SECOND_NS >= _FEWEST_S:
        by = "the first 10 s against the last third"
        burst, lasting = done_ns <= start + _BURST_NS, done_ns > end - (end - start) // 3
    else:
        return None
    if not burst.any() or not lasting.any():
        return None
    first, last = (nearest_rank(np.sort(service_ns[which]), QUANTILES["p50"]) / 1e6 for which in (burst, lasting))
    return {"burst_p50_ms": first, "sustained_p50_ms": last, "ratio": last / first, "by": by}


def heating(telemetry: Telemetry, start_ns: int, end_ns: int) -> dict[str, float | None] | None:
    """{start_c, end_c, max_c, c_per_minute}: the hottest zone, and its slope over the last third; None where none."""
    hottest = telemetry.hottest()
    read = None if hottest is None else hottest.within(start_ns, end_ns)
    if read is None or len(read.values) == 0:
        return None
    last = read.within(end_ns - (end_ns - start_ns) // 3, end_ns)
    found = slope((last.times_ns - last.times_ns[:1]) / 1e9, last.values / 1e3)
    return {
        "start_c": int(read.values[0]) / 1e3,
        "end_c": int(read.values[-1]) / 1e3,
        "max_c": int(read.values.max()) / 1e3,
        "c_per_minute": None if found is None else found["per_hour"] / 60,
    }


def _mean(series: Series | None, start_ns: int, end_ns: int, unit: float) -> float | None:
    if series is None:
        return None
    values = series.within(start_ns, end_ns).values
    return float(values.mean()) / unit if len(values) else None


def _lowest_mhz(telemetry: Telemetry, start_ns: int, end_ns: int) -> float | None:
    series = telemetry.named("cpu.clock_delivered.") or telemetry.named("cpu.clock.")
    means = [_mean(each, start_ns, end_ns, 1e6) for each in series]
    return min((mean for mean in means if mean is not None), default=None)


def _share(throttling: Throttling, start_ns: int, end_ns: int) -> float | None:
    edges = np.array([start_ns]), np.array([end_ns])
    if not overlaps(throttling.known, *edges)[0] and not overlaps(throttling.held, *edges)[0]:
        return None
    inside = throttling.held.clip(start_ns, end_ns)
    return float((inside[:, 1] - inside[:, 0]).sum() / max(end_ns - start_ns, 1))
