"""Engines that a backend builds, through a real agent with real processes, and a real gRPC client.

It stands on `tests/fakes/built_backend.py`, a backend of numpy alone that a real agent finds as an installed package:
no vendor's library and no GPU take part.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
from tests.agent.conftest import SIZE, tiny_model
from tests.e2e.conftest import AgentProcess, start_agent
from tests.fakes import built_backend

from backbench.controller.client import AgentClient
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import BackbenchError, InvalidRunSpec
from backbench.domain.event import LaunchReport, Layer, LogLine, Progress, RunResult
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import (
    BackendSpec,
    FailureReason,
    LaunchPurpose,
    ModelRef,
    RunFailure,
    RunSpec,
    RunState,
    Scenario,
)

DEADLINE_S = 60.0


@dataclass
class Told:
    """What was told of one run."""

    reports: dict[LaunchPurpose, LaunchReport] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    frames: int = 0
    state: RunState | None = None
    failure: RunFailure | None = None


@dataclass
class Device:
    """An agent with the backend, a client of it, and the digest of a model that it holds."""

    agent: AgentProcess
    client: AgentClient
    model: str

    def spec(self, *, layers: bool = False, precision: str = "", memory: bool = False, **options: str) -> RunSpec:
        backend = BackendSpec(built_backend.NAME, threads=1, options=options, precision=precision)
        scenario = Scenario(warmup_frame_count=2, frame_count=20)
        return RunSpec(
            new_run_id(), ModelRef("tiny", self.model, "file"), SIZE, SIZE, backend=backend, scenario=scenario,
            memory_pass=memory, telemetry_rate_hz=0, layers_pass=layers,
        )  # fmt: skip

    def run(self, spec: RunSpec) -> Told:
        self.client.submit_run(spec)
        return self.told(spec.run_id)

    def told(self, run_id: str) -> Told:
        told = Told()
        for event in self.client.watch_run(run_id):
            body = event.event
            if isinstance(body, LaunchReport):
                told.reports[body.purpose] = body
            elif isinstance(body, Progress):
                told.progress.append(body)
            elif isinstance(body, LogLine):
                told.warnings.append(body.text)
            elif isinstance(body, FrameBlock):
                told.frames += len(body.index)
            elif isinstance(body, RunResult):
                told.state, told.failure = body.state, body.failure
        return told

    @property
    def engines(self) -> set[str]:
        """What lies in its engine cache besides timings, hidden names included."""
        return {path.name for path in (self.agent.data_dir / "engines").iterdir()} - {"timings"}

    def build_process(self) -> psutil.Process:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for child in psutil.Process(self.agent.process.pid).children(recursive=True):
                try:
                    if "backbench.agent.build" in child.cmdline():
                        return child
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.01)
        raise AssertionError("no build was started")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("device")
    built_backend.install(folder / "packages")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTHONPATH", str(folder / "packages"))
        agent = start_agent(folder / "data")
    model = folder / "tiny.onnx"
    model.write_bytes(tiny_model())
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    with AgentClient(agent.address) as client:
        client.upload(model, sha256, ArtifactKind.MODEL, "tiny.onnx")
        yield Device(agent, client, sha256)
    agent.stop()


def test_an_engine_is_built_with_progress_then_found_and_its_passes_tell_everything(device: Device) -> None:
    first = device.run(device.spec(layers=True, memory=True, precision="fp16", salt="whole"))
    assert (first.state, first.failure, first.frames) == (RunState.DONE, None, 22)

    build = first.reports[LaunchPurpose.BUILD]
    assert build.facts["cached"] == "no"
    assert (build.facts["precision"], build.facts["salt"]) == ("fp16", "whole")
    assert build.counters["engine_bytes"] == 37
    assert build.counters["layer_count"] == 2
    assert build.counters["build_ns"] > 0
    assert [phase.name for phase in build.phases] == ["build"]
    shown = [(each.done_count, each.total_count) for each in first.progress if each.stage == "build"]
    assert (built_backend.STEPS, built_backend.STEPS) in shown

    memory = {phase.name: phase.figures for phase in first.reports[LaunchPurpose.MEMORY].memory}
    assert all(memory[name]["engine.file"] == 37 for name in ("load", "inputs", "first_inference", "steady"))
    assert "engine.file" not in memory["after_free"]

    layers = first.reports[LaunchPurpose.LAYERS]
    assert layers.layers == (Layer("sum", "ReduceSum", "numpy", 3000, 20), Layer("div", "Div", "numpy", 1000, 20))
    assert layers.counters["inference_count"] == 20
    assert first.reports[LaunchPurpose.TIMED].layers == ()
    assert first.reports[LaunchPurpose.TIMED].facts["precision"] == "fp16"

    second = device.run(device.spec(precision="fp16", salt="whole"))
    again = second.reports[LaunchPurpose.BUILD]
    assert second.state is RunState.DONE
    assert again.facts["cached"] == "yes"
    assert again.counters == build.counters
    assert again.phases == ()
    assert (device.agent.data_dir / "engines/timings/numbers.cache").read_text() == "faster"


def test_an_engine_that_was_changed_on_the_disk_is_built_again(device: Device) -> None:
    spec = device.spec(salt="changed")
    digest = device.run(spec).reports[LaunchPurpose.BUILD].facts["engine"]
    engine = device.agent.data_dir / "engines" / digest / "engine"
    engine.write_bytes(b"another engine")
    again = device.run(replace(spec, run_id=new_run_id()))
    assert again.state is RunState.DONE
    assert again.reports[LaunchPurpose.BUILD].facts["cached"] == "no"
    assert engine.read_bytes() != b"another engine"


@pytest.mark.parametrize(
    ("behave", "reason", "words"),
    [
        ("refuse", FailureReason.ENGINE_BUILD_FAILED, "operator Fancy (node 7)"),
        ("empty", FailureReason.ENGINE_BUILD_FAILED, "built no engine"),
        ("crash", FailureReason.WORKER_CRASHED, "SIGSEGV in stage build (numbers)"),
    ],
)
def test_a_build_that_fails_fails_the_run_in_words_and_leaves_nothing(
    device: Device, behave: str, reason: FailureReason, words: str
) -> None:
    before = device.engines
    told = device.run(device.spec(behave=behave, salt=behave))
    assert told.state is RunState.FAILED
    assert told.failure is not None
    assert told.failure.reason is reason
    assert words in told.failure.message
    assert "\n" not in told.failure.message
    assert LaunchPurpose.BUILD not in told.reports
    assert device.engines == before


@pytest.mark.parametrize("behave", ["hang", "deaf"])
def test_a_cancelled_build_ends_and_leaves_nothing(device: Device, behave: str) -> None:
    before = device.engines
    spec = device.spec(behave=behave, salt=behave)
    device.client.submit_run(spec)
    build = device.build_process()
    device.client.cancel_run(spec.run_id)
    assert device.told(spec.run_id).state is RunState.CANCELLED
    assert not build.is_running()
    assert device.engines == before


def test_a_killed_build_fails_the_run_and_what_it_wrote_is_no_engine(device: Device) -> None:
    before = device.engines
    spec = device.spec(behave="hang", salt="killed")
    device.client.submit_run(spec)
    device.build_process().kill()
    told = device.told(spec.run_id)
    assert told.failure is not None
    assert told.failure.reason is FailureReason.WORKER_CRASHED
    assert device.engines == before
    assert device.run(device.spec(salt="killed")).reports[LaunchPurpose.BUILD].facts["cached"] == "no"


def test_what_was_executed_elsewhere_is_a_failure_whose_frames_are_kept(device: Device) -> None:
    told = device.run(device.spec(behave="elsewhere"))
    assert told.frames == 22
    assert told.failure is not None
    assert (told.failure.reason, told.failure.message) == (
        FailureReason.BACKEND_UNAVAILABLE,
        "numpy did not run it; take another backend",
    )


def test_layers_that_cannot_be_had_are_a_warning_beside_the_frames(device: Device) -> None:
    told = device.run(device.spec(layers=True, behave="layerless"))
    assert (told.state, told.frames) == (RunState.DONE, 22)
    assert LaunchPurpose.LAYERS not in told.reports
    assert "the layers pass gave nothing: it counts no layers" in told.warnings


def test_layers_of_onnx_runtime_are_told_and_no_engine_is_built(device: Device) -> None:
    told = device.run(replace(device.spec(layers=True), backend=BackendSpec("onnxruntime", threads=1)))
    assert told.state is RunState.DONE
    assert LaunchPurpose.BUILD not in told.reports
    layers = told.reports[LaunchPurpose.LAYERS].layers
    assert {layer.operator for layer in layers} >= {"Conv", "GlobalAveragePool"}
    assert {layer.provider for layer in layers} == {"CPUExecutionProvider"}
    assert all(layer.mean_ns > 0 and layer.call_count == 20 for layer in layers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fancy": "yes"}, 'no option "fancy"; its options: behave, salt'),
        ({"precision": "int8"}, "it chooses: fp16"),
        ({"salt": "x" * 65}, "1 to 64 characters"),
        ({"engine": "/home/somebody/their.plan"}, 'no option "engine"'),
    ],
)
def test_what_the_backend_does_not_take_is_refused_before_the_run(
    device: Device, change: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidRunSpec, match=words):
        device.client.submit_run(device.spec(**change))  # type: ignore[arg-type]


def test_an_engine_that_somebody_else_built_is_never_taken(device: Device, tmp_path: Path) -> None:
    """Not as an option, and not as a model: an engine is code, and only what this agent built is opened."""
    plan = tmp_path / "their.plan"
    plan.write_bytes(b"ftrt" + bytes(4096))
    sha256 = hashlib.sha256(plan.read_bytes()).hexdigest()
    device.client.upload(plan, sha256, ArtifactKind.MODEL, "their.plan")
    told = device.run(replace(device.spec(salt="theirs"), model=ModelRef("theirs", sha256, "file")))
    assert told.failure is not None
    assert told.failure.reason is FailureReason.INVALID_MODEL
    assert told.reports == {}
    with pytest.raises(BackbenchError):
        device.run(replace(device.spec(), model=ModelRef("theirs", sha256, "engine")))
