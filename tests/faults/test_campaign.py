"""The fault campaign in short: `scripts/faults` does the same for hundreds of trials."""

from __future__ import annotations

import sys

import pytest
from tests.faults.campaign import Campaign, report
from tests.faults.faults import FAULTS, UPLOAD
from tests.faults.scene import SHAPES, Life

SEED = 2
SHORT = {
    "kill the controller", "kill the worker", "kill the agent", "terminate the agent",
    "one trouble after the other", UPLOAD,
}  # fmt: skip
LIVES = {shape.name: Life(seconds=4.0, events=14, to_agent=2500, to_controller=20_000) for shape in SHAPES}


@pytest.mark.skipif(sys.platform != "linux", reason="adopts processes, which Linux alone can")
def test_whatever_breaks_the_store_gets_what_was_measured_once_and_nothing_is_left_over() -> None:
    said: list[str] = []
    faults = [fault for fault in FAULTS if fault.name in SHORT]
    campaign = Campaign(SEED, faults, say=said.append, lives=LIVES)
    campaign.run(range(len(faults)))
    assert {trial.drawn.fault.name for trial in campaign.trials} == SHORT
    assert not campaign.failed, "\n".join((f"seed {SEED}", *said))
    assert all(trial.compared.frames for trial in campaign.trials if "done" in trial.states), "\n".join(said)
    assert f"| {UPLOAD} | 1 |" in report(SEED, campaign.trials, 1.0)
