"""The loop's own cost is measured, not assumed."""

from __future__ import annotations

from backbench.agent.worker.overhead import loop_overhead


def test_a_frame_without_work_still_costs_something() -> None:
    costs = loop_overhead()
    assert list(costs) == ["loop_overhead_p50_ns", "loop_overhead_p99_ns", "loop_period_p50_ns"]
    assert 0 < costs["loop_overhead_p50_ns"] <= costs["loop_overhead_p99_ns"]
    assert costs["loop_overhead_p50_ns"] < costs["loop_period_p50_ns"]
