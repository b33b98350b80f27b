"""When the frames of an open loop arrive: whole nanoseconds from the first moment of the window."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from itertools import chain
from operator import sub
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backbench.agent.backends.base import WorkerFailure
from backbench.domain.arrivals import constant_due_ns, parse_trace
from backbench.domain.errors import InvalidArgument
from backbench.domain.run import FailureReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backbench.agent.worker.job import Job

_ARRIVALS = 0x617272  # sets the arrivals' random stream apart from those of the inputs, which may have the same seed
_LN_TERMS = 12


def due_offsets_ns(job: Job) -> array[int]:
    """The arrivals of a job's timed frames, ascending int64 ns: `frame_count` at most, all before `duration_ns`.

    Raises WorkerFailure where the trace cannot be read.
    """
    offsets = _offsets(job)
    count = min(len(offsets), job.frame_count)
    if job.duration_ns is not None:
        count = min(count, bisect_left(offsets, job.duration_ns))
    return offsets[:count]


def longest_gap_ns(offsets: array[int]) -> int:
    """The longest time without an arrival, from the first moment of the window on; 0 for no arrivals."""
    return max(map(sub, offsets, chain([0], offsets)), default=0)


def poisson_offsets_ns(count: int, rate_mhz: int, seed: int) -> array[int]:
    """Arrivals whose gaps are exponential with mean `1000 / rate_mhz` s: equal seeds, equal arrivals on any platform.

    The gaps are -ln(u) times the mean, u in (0, 1] from the raw bits of PCG64. The gaps are rounded and then added, so
    that no order of additions changes a bit.
    """
    raw = np.random.PCG64([seed, _ARRIVALS]).random_raw(count)
    uniform = ((raw >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53
    gaps = np.rint(-_ln(uniform) * (10**12 / rate_mhz)).astype(np.int64)
    return array("q", np.cumsum(gaps, dtype=np.int64).tobytes())


def _offsets(job: Job) -> array[int]:
    if job.arrivals == "trace":
        return array("q", _trace(job.trace_path or ""))
    if job.arrivals not in ("constant", "poisson") or job.rate_mhz is None:
        raise ValueError(f"no schedule for {job.arrivals} arrivals at a rate of {job.rate_mhz} mHz")
    if job.arrivals == "poisson":
        return poisson_offsets_ns(job.frame_count, job.rate_mhz, job.schedule_seed)
    return array("q", (constant_due_ns(frame, job.rate_mhz) for frame in range(job.frame_count)))


def _trace(path: str) -> tuple[int, ...]:
    try:
        return parse_trace(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, InvalidArgument) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        raise WorkerFailure(
            FailureReason.INVALID_INPUT, f"the arrival trace cannot be used: {words}; give another --trace"
        ) from error


def _ln(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The natural logarithm, to the same bit wherever IEEE 754 holds; libraries' own differ in the last one.

    x = m 2^e with m in [0.5, 1) brought to [sqrt(0.5), sqrt(2)); ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)), whose
    series ends below 1e-17 after 12 terms.
    """
    mantissa, exponent = np.frexp(values)
    low = mantissa < math.sqrt(0.5)
    mantissa, exponent = np.where(low, mantissa * 2, mantissa), exponent - low
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = np.zeros_like(values)
    for term in range(_LN_TERMS - 1, -1, -1):
        series = series * square + 1 / (2 * term + 1)
    logarithm: NDArray[np.float64] = exponent * math.log(2) + 2 * ratio * series
    return logarithm
