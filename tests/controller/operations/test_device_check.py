"""What a device would refuse, refused before anything is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.helper
import pytest

from backbench.controller.operations.device_check import check_device
from backbench.controller.operations.plan import ProfileRequest, plan_profile
from backbench.domain.device import Backend, Device, DeviceIdentity, Limits, SensorChannel, SensorSource
from backbench.domain.errors import (
    BackendUnavailable,
    InvalidArgument,
    InvalidRunSpec,
    MessageTooLarge,
    UnknownBackend,
    VersionMismatch,
)
from backbench.domain.run import ScenarioName
from backbench.models.onnx_input import MODEL_KEY

GOOD = ProfileRequest(("resnet50",), "pi")
FEATURES = (
    *(f"scenario.{name.value}" for name in ScenarioName), "launches", "memory-limit", "postprocess", "interleave",
    "telemetry-sources", "cool-gate", "set-clocks",
)  # fmt: skip
SOURCES = (
    SensorSource("hwmon", "read"),
    SensorSource("pmic", "off"),
    SensorSource("jtop", "absent", "jetson-stats is not installed; pip install 'backbench[jtop]'"),
)
WARM = SensorChannel("temp.cpu", "mC", "thermal")


def _device(**changes: object) -> Device:
    backends = (
        Backend("onnxruntime", True, precisions=("as-model", "fp32")),
        Backend("tensorrt", False, reason="the package tensorrt is missing"),
    )
    device = Device("d", DeviceIdentity(), backends, (), Limits(), "0.1.0", 1, 1, "i")
    return replace(device, **changes)  # type: ignore[arg-type]


def _stated(path: Path, precision: str) -> Path:
    """A file that says in which precision it is."""
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 3, 8, 8))
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, (1, 3, 8, 8))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["image"], ["out"])], "tiny", [image], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.helper.set_model_props(model, {MODEL_KEY: json.dumps({"precision": precision})})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("change", "limits", "error", "words"),
    [
        ({"backends": ("tflite",)}, {}, UnknownBackend, "it has onnxruntime, tensorrt"),
        ({"backends": ("tensorrt",)}, {}, BackendUnavailable, "package tensorrt is missing"),
        ({"precision": "int8"}, {}, InvalidArgument, "--precision int8: onnxruntime on pi takes as-model, fp32"),
        ({"frames": 90, "warmup": 11}, {"frame_count": 100}, InvalidRunSpec, "--frames and --warmup"),
        (
            {"scenario": "sweep", "miss_ratio": "0.1%"},
            {"frame_count": 4000},
            InvalidRunSpec,
            "frames that --miss-ratio asks for: ",
        ),
        ({"timeout_s": 61.0}, {"run_duration_ns": 60 * 10**9}, InvalidRunSpec, "--timeout"),
        ({}, {"artifact_bytes": 1000}, MessageTooLarge, "at most 1000"),
        ({"scenario": "soak"}, {"run_duration_ns": 3600 * 10**9}, InvalidRunSpec, "the time that the run may take"),
        ({"scenario": "soak", "fps": 30.0}, {"frame_count": 18019}, InvalidRunSpec, "frames in --duration at --fps"),
        (
            {"take_turns": True, "models": ("resnet50",) * 2},
            {"queue_length": 1},
            InvalidRunSpec,
            "runs that take turns: 2",
        ),
        ({"scenario": "streams", "streams": 2}, {"frame_count": 2039}, InvalidRunSpec, "2040 is more than pi takes"),
        (
            {"memory_limit": "39MB"},
            {"memory_limit_floor_bytes": 40_000_000},
            InvalidRunSpec,
            "holds 40 MB without a model",
        ),
    ],
)
def test_what_the_device_would_refuse_is_refused_here(
    change: dict[str, object], limits: dict[str, int], error: type[Exception], words: str
) -> None:
    plan = plan_profile(replace(GOOD, **change))  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        check_device(plan, _device(features=FEATURES, limits=Limits(**limits)))


@pytest.mark.parametrize(
    ("change", "feature", "words"),
    [
        ({"scenario": "paced", "fps": 30.0}, "scenario.paced", "scenario paced"),
        ({"scenario": "idle-fire"}, "scenario.idle-fire", "scenario idle-fire"),
        ({"duration": "30s"}, "scenario.closed-loop", "--duration"),
        ({"launches": 2}, "launches", "--launches"),
        ({"memory_limit": "256MB"}, "memory-limit", "--memory-limit"),
        ({"postprocess": "top-1"}, "postprocess", "--postprocess"),
        ({"take_turns": True}, "interleave", "runs that take turns"),
        ({"sensor": ("pmic",)}, "telemetry-sources", "--sensor"),
        ({"telemetry_rate_hz": 20.0}, "telemetry-sources", "a --telemetry-rate above 10"),
        ({"wait_cool": "45C"}, "cool-gate", "--wait-cool"),
        ({"regime": "locked"}, "set-clocks", "--regime locked"),
        ({"set_clocks": True}, "set-clocks", "--set-clocks"),
    ],
)
def test_what_an_older_agent_does_not_announce_is_refused(change: dict[str, object], feature: str, words: str) -> None:
    plan = plan_profile(replace(GOOD, **change))  # type: ignore[arg-type]
    others = tuple(each for each in FEATURES if each != feature)
    with pytest.raises(VersionMismatch, match=f"the agent on pi does not know {words}; update Backbench on the device"):
        check_device(plan, _device(features=others))
    check_device(plan, _device(features=FEATURES, sensors=(WARM,), sensor_sources=SOURCES))


def test_a_trace_that_the_device_does_not_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "camera.txt"
    path.write_text("0\n" * 20_000)
    plan = plan_profile(replace(GOOD, scenario="trace", trace=path))
    with pytest.raises(MessageTooLarge, match=r"camera\.txt has 40000 bytes"):
        check_device(plan, _device(features=FEATURES, limits=Limits(artifact_bytes=39_999)))


def test_a_plan_that_fits_the_device_passes() -> None:
    check_device(plan_profile(GOOD), _device())
    check_device(plan_profile(replace(GOOD, precision="fp32")), _device())


def test_a_file_whose_precision_the_backend_does_not_take_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    path = _stated(tmp_path / "small.onnx", "int8")
    with pytest.raises(InvalidArgument, match="small is int8: onnxruntime on pi takes as-model, fp32"):
        check_device(plan_profile(replace(GOOD, models=(str(path),))), _device())
    able = replace(_device().backends[0], precisions=("as-model", "fp32", "fp16", "int8"))
    check_device(plan_profile(replace(GOOD, models=(str(path),))), _device(backends=(able,)))


def test_int8_for_another_kind_of_backend_is_refused_and_the_backend_decides_where_nothing_is_said() -> None:
    plan = plan_profile(replace(GOOD, precision="int8", target="tensorrt"))
    device = _device(backends=(Backend("onnxruntime", True), Backend("tensorrt", True)))
    with pytest.raises(InvalidArgument, match=r"resnet50 is int8 for tensorrt, .* take --for cpu"):
        check_device(plan, device)
    check_device(plan_profile(replace(GOOD, precision="int8", backends=("tensorrt",))), device)


@pytest.mark.parametrize(
    ("sensor", "words"),
    [
        ("pcmi", "--sensor pcmi: pi reads no such source; it offers pmic"),
        ("hwmon", "--sensor hwmon: pi reads it anyway; it offers pmic"),
        ("jtop", r"--sensor jtop: absent on pi: jetson-stats is not installed; pip install 'backbench\[jtop\]'"),
    ],
)
def test_a_source_that_cannot_be_asked_for_is_refused_with_what_would_help(sensor: str, words: str) -> None:
    plan = plan_profile(replace(GOOD, sensor=(sensor,)))
    with pytest.raises(InvalidArgument, match=words):
        check_device(plan, _device(features=FEATURES, sensor_sources=SOURCES))


def test_a_device_without_a_temperature_cannot_be_waited_for() -> None:
    plan = plan_profile(replace(GOOD, wait_cool="45C"))
    for sensors in ((), (replace(WARM, available=False),)):
        with pytest.raises(InvalidRunSpec, match="--wait-cool: pi reads no temperature"):
            check_device(plan, _device(features=FEATURES, sensors=sensors))
