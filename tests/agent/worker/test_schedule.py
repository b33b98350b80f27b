"""Arrivals are whole numbers that do not drift, and the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.worker.job import Job
from backbench.agent.worker.schedule import due_offsets_ns, poisson_offsets_ns
from backbench.domain.run import FailureReason

MakeJob = Callable[..., Job]
SECOND_NS = 10**9


def test_a_constant_rate_does_not_drift_in_600_000_frames(make_job: MakeJob) -> None:
    offsets = due_offsets_ns(make_job(arrivals="constant", rate_mhz=29_970, frame_count=600_000))
    assert len(offsets) == 600_000
    assert offsets[0] == 0
    assert offsets[599_999] == 599_999 * 10**12 // 29_970
    gaps = np.diff(np.array(offsets))
    assert set(gaps.tolist()) == {33_366_700, 33_366_701}


def test_a_duration_limits_the_arrivals(make_job: MakeJob) -> None:
    job = make_job(arrivals="constant", rate_mhz=10_000, frame_count=1000, duration_ns=2 * SECOND_NS)
    assert len(due_offsets_ns(job)) == 20
    assert len(due_offsets_ns(make_job(arrivals="constant", rate_mhz=10_000, frame_count=7))) == 7


def test_poisson_arrivals_have_the_mean_rate_and_exponential_gaps() -> None:
    count, mean_ns = 100_000, SECOND_NS / 30
    offsets = np.array(poisson_offsets_ns(count, 30_000, seed=1))
    gaps = np.diff(offsets, prepend=0)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(mean_ns, rel=4 / math.sqrt(count))
    assert gaps.std() == pytest.approx(mean_ns, rel=0.02)
    for share in (0.1, 0.5, 0.9, 0.99):
        assert np.quantile(gaps, share) == pytest.approx(-math.log(1 - share) * mean_ns, rel=0.03)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02


def test_equal_seeds_give_equal_arrivals_and_other_seeds_others() -> None:
    first = poisson_offsets_ns(1000, 30_000, seed=3)
    assert first == poisson_offsets_ns(1000, 30_000, seed=3)
    assert first[:500] == poisson_offsets_ns(500, 30_000, seed=3)
    assert first != poisson_offsets_ns(1000, 30_000, seed=4)


def test_arrivals_are_the_same_on_every_platform() -> None:
    assert list(poisson_offsets_ns(4, 30_000, seed=0)) == [12_853_589, 17_218_709, 34_203_840, 38_808_000]


def test_the_logarithm_behind_the_gaps_is_right() -> None:
    raw = np.random.PCG64([5, 0x617272]).random_raw(2000)
    expected = np.cumsum([round(-math.log(((int(word) >> 11) + 1) * 2.0**-53) * 1e9) for word in raw])
    assert np.abs(np.array(poisson_offsets_ns(2000, 1000, seed=5)) - expected).max() <= 1


def test_a_trace_is_replayed_from_its_first_arrival(make_job: MakeJob, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("# a camera\n1000\n34000\n34000\n90000\n")
    job = make_job(arrivals="trace", trace_path=str(trace))
    assert list(due_offsets_ns(job)) == [0, 33_000, 33_000, 89_000]
    shorter = make_job(arrivals="trace", trace_path=str(trace), frame_count=2)
    assert list(due_offsets_ns(shorter)) == [0, 33_000]


@pytest.mark.parametrize("content", [b"5\n4\n", b"five\n", b"", b"\xff\xfe", None])
def test_a_trace_that_cannot_be_used_is_a_failure_in_one_line(
    make_job: MakeJob, tmp_path: Path, content: bytes | None
) -> None:
    trace = tmp_path / "trace"
    if content is not None:
        trace.write_bytes(content)
    with pytest.raises(WorkerFailure, match="the arrival trace cannot be used") as caught:
        due_offsets_ns(make_job(arrivals="trace", trace_path=str(trace)))
    assert caught.value.reason is FailureReason.INVALID_INPUT
    assert "\n" not in str(caught.value)
