"""`backbench noise`, with the measuring left out."""

from __future__ import annotations

from typing import Any

import pytest

from backbench.controller.operations import noise as operations
from backbench.controller.operations.plan import Plan

DOCUMENT: dict[str, Any] = {
    "schema": "backbench.noise/1",
    "device": "pi",
    "measured_unix_ns": 5,
    "model": {"name": "resnet50", "size": [224, 160], "precision": "fp32"},
    "launches": 6,
    "frames": 500,
    "noise_floor": 0.0123,
    "same": {"p50_ms": [[9.0], [9.1]], "ratio": 1.0123, "difference": 0.0123, "spread": 0.031},
    "telemetry": {"rate_hz": 2.0, "p50_ms": {}, "ratio": 1.002, "difference": 0.002, "flagged": False},
    "loop": {"overhead_p50_ns": 1234, "period_p50_ns": None},
    "runs": [],
}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    plans: list[Plan] = []

    def measured(store: Any, plan: Plan, *_: Any, wait: bool) -> dict[str, Any]:  # noqa: ARG001
        plans.append(plan)
        return DOCUMENT

    monkeypatch.setattr(operations, "measure_noise", measured)
    return plans


def test_the_noise_floor_is_told_with_what_it_is_made_of(backbench: Any, plans: list[Plan]) -> None:
    told = backbench("noise", "--device", "pi", "--model", "resnet50", "--launches", "3").out
    for words in (
        "noise floor of pi: 1.23 %",
        "p50 times 1.0123 in the second of two equal runs (resnet50 224x160, 6 launches of 500 frames)",
        "p50 up to 3.10 % apart",
        "p50 +0.20 % at 2 samples a second: no more than noise",
        "1.2 µs within a frame's time, not told from frame to frame",
    ):
        assert words in told
    assert [(plan.request.models, plan.request.launches) for plan in plans] == [(("resnet50", "resnet50"), 3)]


@pytest.mark.usefixtures("plans")
def test_it_is_one_document_too(backbench: Any) -> None:
    assert backbench("noise", "--device", "pi", "--json").json == DOCUMENT


def test_one_launch_is_refused(backbench: Any) -> None:
    assert (
        "--launches is 1; it must be between 2" in backbench("noise", "--device", "pi", "--launches", "1", status=2).err
    )
