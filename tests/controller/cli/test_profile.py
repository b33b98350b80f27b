"""The options of `backbench profile`, without a device."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from backbench.controller.cli.profile import profile
from backbench.controller.operations import profile as operations
from backbench.controller.operations.plan import Plan, ProfileRequest
from backbench.domain.run import ScenarioName


def test_everything_that_can_be_asked_for_has_an_option_with_the_same_default() -> None:
    options = inspect.signature(profile).parameters
    for field in dataclasses.fields(ProfileRequest):
        if field.name == "take_turns":  # for measuring noise alone
            continue
        assert field.name in options
        if field.name not in ("models", "device", "budgets", "sensor", "backends", "backend_option"):
            assert options[field.name].default == field.default, field.name


def test_the_help_has_its_options_in_groups_and_explains_every_scenario(backbench: Any) -> None:
    text = backbench("profile", "--help").out
    places = [text.index(title) for title in ("What is run", "How frames arrive", "What is measured and judged")]
    assert places == sorted(places)
    for name in ScenarioName:
        assert name.value in text
    options = set(re.findall(r"--[a-z][a-z-]+", text))
    assert {"--fps", "--queue-policy", "--idle-gap", "--memory-limit", "--telemetry-rate", "--timeout"} <= options


def test_what_is_written_arrives_in_the_plan(backbench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    def taken(store: Any, plan: Plan, *_: Any, wait: bool) -> list[Any]:  # noqa: ARG001
        plans.append(plan)
        return []

    monkeypatch.setattr(operations, "profile", taken)
    words = "--scenario paced --fps 29.97 --queue-policy drop-newest --queue-depth 3 --deadline 40ms --frames 700"
    more = "--launches 3 --memory-limit 256MB --postprocess top-1 --seed 5 --telemetry-rate 1 --timeout 900 --no-spin"
    budgets = ("--budget", "drops<=0.1%", "--budget", "p99<=40ms")
    more += " --wait-cool 45C --max-wait 5m --regime locked --set-clocks --sensor pmic --sensor jtop"
    more += " --backend tensorrt --backend onnxruntime --dla 0 --cuda-graph --backend-option sync=blocking"
    more += " --allow-fallback --layers"
    options = (*words.split(), *more.split(), "--priority", "nightly", *budgets)
    backbench("profile", "resnet50", "resnet18", "--device", "pi", *options)
    (plan,) = plans
    request, scenario = plan.request, plan.scenario
    assert (request.models, request.device, request.budgets) == (("resnet50", "resnet18"), "pi", budgets[1::2])
    assert (scenario.rate_mhz, scenario.queue_depth, scenario.deadline_ns) == (29_970, 3, 40_000_000)
    assert (scenario.frame_count, request.launches, plan.memory_limit_bytes) == (700, 3, 256_000_000)
    assert (request.postprocess, request.seed, request.telemetry_rate_hz) == ("top-1", 5, 1.0)
    assert (plan.timeout_s, request.spin, request.priority) == (900.0, False, "nightly")
    assert (request.sensor, request.regime, request.set_clocks) == (("pmic", "jtop"), "locked", True)
    assert plan.gate is not None
    assert (plan.gate.temperature_mc, plan.gate.limit_ns) == (45_000, 300 * 10**9)
    assert (request.backends, request.allow_fallback, request.layers) == (("tensorrt", "onnxruntime"), True, True)
    assert plan.options == {"sync": "blocking", "dla": "0", "cuda-graph": "yes"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--scenario pased", 'scenario "pased" is not known; did you mean paced?'),
        ("--scenario paced", "scenario paced needs --fps N"),
        ("--scenario paced --fps 0", "--fps is 0; it must be between 0.001 and 1000"),
        ("--scenario paced --fps nan", "--fps is nan"),
        ("--scenario paced --fps 1e6", "--fps is 1000000; it must be between 0.001 and 1000"),
        ("--scenario paced --fps many", "--fps"),
        ("--scenario soak --duration 10", '--duration "10": the unit is missing'),
        ("--scenario trace --trace gone.txt", "--trace gone.txt: no such file"),
        (
            "--fps 30",
            "--fps is of no use in scenario closed-loop; leave it away, or take a scenario that has it: paced",
        ),
        ("--frames 0", "--frames is 0; it must be at least 1"),
        ("--launches 0", "--launches is 0; it must be between 1 and 100"),
        ("--scenario sweep --launches 2", "--launches is 2"),
        ("--memory-limit 256", '--memory-limit "256": the unit is missing'),
        ("--budget p99<=30", 'budget "p99<=30": the unit is missing'),
        ("--wait-cool hot", '--wait-cool "hot" is not a temperature; write a number and a unit, for example "10C"'),
        ("--telemetry-rate 51", "--telemetry-rate is 51; it must be between 0 and 50"),
        ("--budget drops<=1%", "in closed-loop no frame arrives before its turn"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2_and_starts_nothing(backbench: Any, arguments: str, words: str) -> None:
    refused = backbench("profile", "resnet50", "--device", "pi", *arguments.split(), status=2)
    assert refused.out == ""
    assert refused.err.startswith("backbench: error: ")
    assert refused.err.count("\n") == 1
    assert words in refused.err
    assert backbench("run", "list", "--json").json["runs"] == []


def test_a_trace_with_a_negative_gap_is_named_with_its_line(backbench: Any, tmp_path: Path) -> None:
    path = tmp_path / "camera.txt"
    path.write_text("0\n5\n3\n")
    refused = backbench("profile", "resnet50", "--device", "pi", "--scenario", "trace", "--trace", str(path), status=2)
    assert "camera.txt: line 3: a negative gap" in refused.err
