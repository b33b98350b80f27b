from __future__ import annotations

import dataclasses

import pytest

from backbench.domain.artifact import is_sha256
from backbench.domain.frame import NULLABLE_COLUMNS, OUTCOME_NUMBERS, FrameBlock, FrameOutcome
from backbench.domain.run import ImageRef, InputSpec, ModelRef, RunSpec, RunState, Scenario, ScenarioName


@pytest.mark.parametrize("state", list(RunState))
def test_a_run_has_ended_when_it_is_done_failed_cancelled_or_interrupted(state: RunState) -> None:
    assert state.ended == (state.value in {"done", "failed", "cancelled", "interrupted"})


def test_a_run_spec_cannot_be_changed_after_it_was_made() -> None:
    spec = RunSpec("id", ModelRef("resnet50", "0" * 64, "skeleton"), 224, 224)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.batch = 2  # type: ignore[misc]


def test_a_run_needs_its_model_its_reference_and_its_images() -> None:
    images = InputSpec((ImageRef("one", "1" * 64), ImageRef("two", "2" * 64)))
    spec = RunSpec("id", ModelRef("resnet50", "0" * 64, "file", reference_sha256="f" * 64), 224, 224, inputs=images)
    assert spec.artifacts == ("0" * 64, "f" * 64, "1" * 64, "2" * 64)
    assert RunSpec("id", ModelRef("resnet50", "0" * 64, "file"), 224, 224).artifacts == ("0" * 64,)


def test_every_outcome_has_a_number_of_its_own() -> None:
    assert set(OUTCOME_NUMBERS) == set(FrameOutcome)
    assert len(set(OUTCOME_NUMBERS.values())) == len(FrameOutcome)


def test_every_column_of_times_may_be_absent() -> None:
    times = {field.name for field in dataclasses.fields(FrameBlock) if field.name.endswith("_ns")}
    assert set(NULLABLE_COLUMNS) == times


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n", "../" + "0" * 61])
def test_only_64_lower_case_hex_digits_are_a_digest(text: str) -> None:
    assert is_sha256("0123456789abcdef" * 4)
    assert not is_sha256(text)


def test_a_sweep_s_deadline_is_the_period_of_the_rate_unless_one_is_stated() -> None:
    sweep = Scenario(ScenarioName.SWEEP)
    assert (sweep.deadline_at(30_000), sweep.deadline_at(None)) == (33_333_333, None)
    assert Scenario(ScenarioName.SWEEP, deadline_ns=50).deadline_at(30_000) == 50
    assert Scenario(ScenarioName.PACED, deadline_ns=50).deadline_at(30_000) == 50
    assert Scenario(ScenarioName.POISSON).deadline_at(30_000) is None
