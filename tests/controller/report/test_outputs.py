"""A run whose outputs were compared: in its document, in its verdict, in what is printed."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from rich.console import Console

from backbench.controller.analysis.comparison import compare
from backbench.controller.report.document import build
from backbench.controller.report.run_list import run_rows, run_table
from backbench.controller.report.text import comparison, run_summary
from backbench.controller.store import RunRecord
from backbench.controller.store.columns import frame_table, masked_columns
from backbench.domain.event import LaunchReport, OutputCheck, RunResult
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.preprocess import Preprocess
from backbench.domain.run import ImageRef, InputSpec, LaunchPurpose, ModelRef, RunSpec, RunState, Scenario

RIGHT = OutputCheck("logits", 1.2e-6, 1.0, True, 5e-3, True, 3, "torch")
WRONG = replace(RIGHT, max_relative_error=0.25, cosine=0.9, passed=False)
BROKEN = replace(RIGHT, name="features", max_relative_error=None, cosine=None, finite=False, passed=False)
FRAMES = 500
SPEC = RunSpec(
    new_run_id(),
    ModelRef("resnet50", "a" * 64, "export", reference_sha256="f" * 64),
    224,
    224,
    scenario=Scenario(frame_count=FRAMES),
)


def launch(number: int, *checks: OutputCheck) -> LaunchReport:
    return LaunchReport(number, LaunchPurpose.TIMED, facts={"threads": "1"}, output_checks=checks)


def document(
    launches: Sequence[LaunchReport], spec: RunSpec = SPEC, state: RunState = RunState.DONE, budget: str = "p50<=1s"
) -> dict[str, Any]:
    rows = tuple(range(FRAMES))
    times, done = tuple(row * 1000 for row in rows), tuple(row * 1000 + 900 for row in rows)
    ones, zeros = (1,) * FRAMES, (0,) * FRAMES
    block = FrameBlock(0, rows, times, times, done, ones, zeros, zeros, compute_ns=(800,) * FRAMES)
    record = RunRecord(spec.run_id, "lab1", None, spec, state, (budget,) if budget else (), 10**18)
    result = RunResult(state, None, FRAMES, FRAMES)
    return build(record, result, launches, masked_columns(frame_table([block])), [], {})


def printed(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(renderable)
    return console.export_text()


def test_outputs_that_were_not_compared_are_null() -> None:
    plain = document([launch(0)], replace(SPEC, model=ModelRef("m", "a" * 64, "file")))
    assert plain["outputs"] is None
    assert plain["model"]["reference"] is None
    assert plain["validity"]["status"] == "unverified"
    assert "outputs" not in printed(run_summary(plain))


def test_outputs_that_are_right_are_told_with_their_error() -> None:
    right = document([launch(0, RIGHT)])
    row = {name: value for name, value in asdict(RIGHT).items() if name not in ("frame_count", "made_by")}
    assert right["outputs"] == {"checks": [row], "frame_count": 3, "reference": "torch", "passed": True}
    assert right["model"]["reference"] == "f" * 64
    assert right["verdict"] == "pass"
    assert right["validity"]["status"] == "unverified"
    assert re.search(r"outputs +within 1.2e-06 of the reference \(3 frames\)", printed(run_summary(right)))


@pytest.mark.parametrize("wrong", [WRONG, BROKEN])
def test_a_fast_wrong_engine_is_invalid_and_passes_no_budget(wrong: OutputCheck) -> None:
    judged = document([launch(0, RIGHT, wrong if wrong is BROKEN else replace(wrong, name="second"))])
    assert judged["outputs"]["passed"] is False
    assert judged["validity"]["status"] == "invalid"
    assert judged["verdict"] == "unknown"
    assert [budget["verdict"] for budget in judged["budgets"]] == ["unknown"]
    (reason,) = [reason for reason in judged["validity"]["reasons"] if reason["code"] == "output_mismatch"]
    words = "is missing, has another shape or holds" if wrong is BROKEN else "off by 0.25 of the reference's largest"
    assert words in reason["detail"]
    text = printed(run_summary(judged))
    assert "1 of 2 differ from the reference (3 frames)" in text
    assert "with wrong outputs says nothing" in text
    assert "pass" not in text.split()


def test_a_mismatch_names_output_error_and_tolerance() -> None:
    (reason, *_) = document([launch(0, WRONG)])["validity"]["reasons"]
    assert reason["detail"] == "output logits is off by 0.25 of the reference's largest number, more than 0.005"


def test_a_wrong_engine_without_budgets_is_invalid_too() -> None:
    judged = document([launch(0, WRONG)], budget="")
    assert (judged["verdict"], judged["validity"]["status"]) == (None, "invalid")


def test_of_several_launches_the_worst_counts() -> None:
    worse = replace(RIGHT, max_relative_error=2e-6)
    assert document([launch(0, RIGHT), launch(1, worse)])["outputs"]["checks"][0]["max_relative_error"] == 2e-6
    for launches in ([launch(0, WRONG), launch(1, worse)], [launch(0, worse), launch(1, WRONG)]):
        judged = document(launches)["outputs"]
        assert not judged["passed"]
        assert judged["checks"][0]["max_relative_error"] == 0.25


def test_a_reference_that_an_old_agent_did_not_look_at_is_said() -> None:
    codes = [reason["code"] for reason in document([launch(0)])["validity"]["reasons"]]
    assert "outputs_not_checked" in codes
    stopped = document([], state=RunState.CANCELLED)["validity"]["reasons"]
    assert "outputs_not_checked" not in [reason["code"] for reason in stopped]


def test_tables_of_several_runs_show_that_one_is_invalid() -> None:
    right, wrong = document([launch(0, RIGHT)]), document([launch(0, WRONG)])
    rows = printed(comparison([right, wrong])).splitlines()
    assert [row.split()[-1] for row in rows if row.strip().startswith("resnet50")] == ["pass", "invalid"]
    record = RunRecord(SPEC.run_id, "lab1", None, SPEC, RunState.DONE, (), 10**18, document=wrong)
    assert printed(run_table(run_rows([record], (), 9), asked=False)).split()[-1] == "invalid"
    old = {name: value for name, value in right.items() if name != "outputs"}
    assert printed(run_table(run_rows([replace(record, document=old)], (), 9), asked=False)).split()[-1] == "pass"


def test_the_digest_of_the_preprocessing_is_a_part_of_the_contract_where_images_are_used() -> None:
    images = InputSpec((ImageRef("one.png", "1" * 64),))
    digests = [
        document([launch(0, RIGHT)], replace(SPEC, inputs=images, preprocess=preprocess))["contract"]
        for preprocess in (Preprocess(), Preprocess(), Preprocess(crop_ratio=0.9))
    ]
    assert len(digests[0]["preprocess_digest"]) == 16
    assert digests[0]["preprocess_digest"] == digests[1]["preprocess_digest"] != digests[2]["preprocess_digest"]
    assert digests[0]["hash"] == digests[1]["hash"] != digests[2]["hash"]
    assert document([launch(0, RIGHT)])["contract"]["preprocess_digest"] is None


def test_models_with_preprocessing_of_their_own_compare_all_the_same() -> None:
    images = InputSpec((ImageRef("one.png", "1" * 64),))
    two = [
        document([launch(0)], replace(SPEC, inputs=images, preprocess=Preprocess(crop_ratio=ratio)))
        for ratio in (0.875, 0.95)
    ]
    assert compare(two)["comparable"]
