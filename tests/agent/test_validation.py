"""What the agent refuses, by name and range, before a run is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backbench.agent.validation import check_spec
from backbench.domain.device import Limits
from backbench.domain.errors import InvalidRunSpec
from backbench.domain.identifiers import new_run_id
from backbench.domain.preprocess import Preprocess
from backbench.domain.run import BackendSpec, ImageRef, InputSpec, ModelRef, RunSpec, Scenario, ScenarioName

SPEC = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 224, 224)


def test_an_ordinary_specification_passes() -> None:
    check_spec(SPEC, Limits())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run_id": "42"}, "run_id"),
        ({"height": 0}, "height"),
        ({"width": 20000}, "width"),
        ({"batch": 0}, "batch"),
        ({"launches": 0}, "launches"),
        ({"run_timeout_ns": 5}, "run_timeout_ns"),
        ({"stall_timeout_ns": 0}, "stall_timeout_ns"),
        ({"telemetry_rate_hz": -1.0}, "telemetry_rate_hz"),
        ({"telemetry_rate_hz": float("nan")}, "telemetry_rate_hz"),
        ({"scenario": Scenario(frame_count=0)}, "frame_count"),
        ({"scenario": Scenario(frame_count=None)}, "frame_count"),
        ({"scenario": Scenario(frame_count=10**9)}, "frame_count"),
        ({"scenario": Scenario(warmup_frame_count=-1)}, "warmup_frame_count"),
        ({"scenario": Scenario(ScenarioName.PACED)}, "paced"),
        ({"backend": BackendSpec(threads=-1)}, "threads"),
        ({"model": ModelRef("m", "../x", "file")}, "SHA-256"),
        ({"model": ModelRef("m", "a" * 64, "pickle")}, "pickle"),
        ({"model": ModelRef("m", "a" * 64, "file", reference_sha256="../x")}, "SHA-256"),
        ({"model": ModelRef("m", "a" * 64, "file", "int4")}, "int4"),
        ({"inputs": InputSpec((ImageRef("x", "y"),))}, "SHA-256"),
        ({"inputs": InputSpec(tuple(ImageRef("x", "a" * 64) for _ in range(2000)))}, "images"),
        ({"inputs": InputSpec(synthetic_count=0)}, "synthetic_count"),
        ({"preprocess": Preprocess(mean=(0.5, 0.5))}, "mean"),  # type: ignore[arg-type]
        ({"preprocess": Preprocess(std=(0.5, 0.0, 0.5))}, "std"),
        ({"preprocess": Preprocess(std=(0.5, float("nan"), 0.5))}, "std"),
        ({"preprocess": Preprocess(crop_ratio=0.0)}, "crop_ratio"),
        ({"preprocess": Preprocess(interpolation="magic")}, "interpolation"),  # type: ignore[arg-type]
        ({"layers_pass": True}, "layers_pass"),
        ({"wait_cool_mc": 45000}, "wait_cool_mc"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_out_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRunSpec, match=words) as caught:
        check_spec(replace(SPEC, **change), Limits())
    assert "\n" not in str(caught.value)
