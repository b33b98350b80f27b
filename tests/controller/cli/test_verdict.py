from __future__ import annotations

from typing import Any

import pytest

from backbench.controller.cli.verdict import status_of


def _run(state: str = "done", verdict: str = "pass", validity: str = "ok", reason: str | None = None) -> dict[str, Any]:
    budgets = [] if verdict == "none" else [{"verdict": verdict}]
    failure = None if reason is None else {"reason": reason}
    return {
        "state": state,
        "verdict": "unknown" if verdict == "none" else verdict,
        "budgets": budgets,
        "validity": {"status": validity, "reasons": []},
        "failure": failure,
    }


@pytest.mark.parametrize(
    ("run", "plain", "strict"),
    [
        (_run(), 0, 0),
        (_run(verdict="none"), 0, 0),
        (_run(verdict="over"), 1, 1),
        (_run(verdict="reject"), 1, 1),
        (_run(verdict="unknown"), 0, 4),
        (_run(validity="unstable"), 0, 0),
        (_run(validity="invalid"), 0, 4),
        (_run(validity="unverified"), 0, 4),
        (_run(verdict="none", validity="unverified"), 0, 4),
        (_run(verdict="reject", validity="invalid"), 1, 4),
        (_run("failed", reason="worker_crashed"), 3, 3),
        (_run("failed", reason="backend_unavailable"), 3, 3),
        (_run("failed", reason="invalid_model"), 2, 2),
        (_run("failed", reason="shape_mismatch"), 2, 2),
        (_run("failed", reason="invalid_input"), 2, 2),
        (_run("interrupted"), 3, 3),
        (_run("cancelled"), 130, 130),
    ],
)
def test_the_exit_status_of_one_run(run: dict[str, Any], plain: int, strict: int) -> None:
    assert status_of([run]) == plain
    assert status_of([run], strict=True) == strict


@pytest.mark.parametrize(
    ("runs", "status"),
    [
        ([_run(), _run(verdict="over")], 1),
        ([_run(verdict="over"), _run(verdict="unknown")], 1),
        ([_run(), _run(verdict="unknown")], 4),
        ([_run("failed", reason="invalid_model"), _run(verdict="reject")], 2),
        ([_run("failed", reason="invalid_model"), _run("failed", reason="worker_crashed")], 3),
        ([_run("failed", reason="worker_crashed"), _run("cancelled")], 130),
    ],
)
def test_the_worst_of_several_decides(runs: list[dict[str, Any]], status: int) -> None:
    assert status_of(runs, strict=True) == status
