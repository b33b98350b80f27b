"""`scripts/gpu-check` itself: it stands on a real agent with ONNX Runtime on the CPU, and on made-up rows. No GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Script = Callable[[str], Path]


def check(script: Script, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script("gpu_check.py")), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip


@pytest.fixture
def module(script: Script, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    import importlib

    monkeypatch.syspath_prepend(str(script("gpu_check.py").parent))
    return importlib.import_module("gpu_check")


@pytest.mark.slow  # a busy machine makes frames that depend on each other, and too few independent ones have no p50
def test_its_machinery_holds_a_run_on_the_cpu_against_a_bare_loop(script: Script, tmp_path: Path) -> None:
    to = tmp_path / "out" / "check.json"
    small = ("--model", "mobilenetv3_large_100", "--size", "32", "--frames", "60", "--rounds", "1")
    done = check(script, "--backend", "onnxruntime", *small, "--json", str(to))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks hold" in done.stdout
    document = json.loads(to.read_text())
    assert document["schema"] == "backbench.gpu-check/1"
    (row,) = document["rows"]
    assert row["failure"] is None
    assert all(row["checks"].values())
    assert row["bare"]["relative_error_to_cpu"] == {"logits": 0.0}
    assert row["bare"]["p50_ms"] > 0
    assert row["spans"]["frames"] == 60
    assert row["layers"]["layers"][0]["mean_ms"] >= row["layers"]["layers"][-1]["mean_ms"] > 0
    assert document["machine"]["cpu_count"] > 0


def test_without_a_gpu_it_says_so_in_one_line_and_ends_with_4(script: Script) -> None:
    done = check(script)
    if done.returncode != 4:
        pytest.skip("there is a GPU here; what is said without one cannot be seen")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("gpu-check: nothing to check: ")
    assert done.stdout == ""


def row(**changes: Any) -> dict[str, Any]:
    spans = {"mean_ms": {"compute": 2.0}, "host_gap_ms": 0.5, "service_ms": 2.5, "smallest_gap_ns": 100}
    outputs = {"passed": True, "checks": [{"tolerance": 0.05}]}
    bare = {"relative_error_to_cpu": {"logits": 0.01}}
    return {"spans": spans, "outputs": outputs, "layers": {"total_ms": 1.0}, "bare": bare, "failure": None, **changes}


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, None),
        ({"outputs": None}, "outputs are the reference's"),
        ({"bare": {"relative_error_to_cpu": {"logits": 0.06}}}, "outputs are those of ONNX Runtime on the CPU"),
        (
            {"spans": {"mean_ms": {"compute": 2.0}, "host_gap_ms": 0.5, "service_ms": 2.5, "smallest_gap_ns": -9000}},
            "parts and host gap make up the service time",
        ),
        ({"layers": None}, "layers have times"),
    ],
)
def test_every_check_can_fail_and_then_the_status_is_1(
    module: Any, changes: dict[str, Any], broken: str | None
) -> None:
    made = row(**changes)
    found = module.checks_of(made)
    assert broken is None or found[broken] is False
    assert module.status_of([{**made, "checks": found}]) == (0 if broken is None else 1)
    assert module.status_of([{**made, "checks": found}, {"failure": "it crashed", "checks": {}}]) == 3


def test_the_cpu_is_checked_beside_a_gpu_and_in_the_model_s_precision_alone(module: Any) -> None:
    from backbench.domain.device import Backend, Device, DeviceIdentity, Limits

    backends = (
        Backend("onnxruntime", True, precisions=("as-model", "fp16")),
        Backend("tensorrt", True, precisions=("as-model",), engine_precisions=("fp16",)),
        Backend("onnxruntime-cuda", False, reason="no driver"),
    )
    device = Device("d", DeviceIdentity(), backends, (), Limits(), "0", 1, 1, "i")
    assert [each.name for each in module.chosen(device, ())] == ["onnxruntime", "tensorrt"]
    options = module.Options((), ("resnet50",), ("as-model", "fp16"), 224, 10, 1, "python", Path("x"))
    made = [(case.backend, case.precision) for case in module.cases(module.chosen(device, ()), options)]
    assert made == [("onnxruntime", "as-model"), ("tensorrt", "as-model"), ("tensorrt", "fp16")]
    alone = Device("d", DeviceIdentity(), (backends[0], backends[2]), (), Limits(), "0", 1, 1, "i")
    assert module.chosen(alone, ()) == []
    assert module.why_none(alone, ()) == ["onnxruntime-cuda: no driver"]
