from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest
from PIL import Image

from backbench.controller.operations.models import parse_size, resolve_model
from backbench.controller.operations.plan import ProfileRequest, check_device, plan_profile, specifications
from backbench.domain.device import Backend, Device, DeviceIdentity, Limits
from backbench.domain.errors import (
    BackendUnavailable,
    InvalidArgument,
    InvalidBudget,
    InvalidImage,
    InvalidModel,
    InvalidRequest,
    InvalidRunSpec,
    MessageTooLarge,
    ShapeMismatch,
    UnknownBackbone,
    UnknownBackend,
)
from backbench.domain.identifiers import is_run_id
from backbench.domain.preprocess import IMAGENET_DEFAULT

GOOD = ProfileRequest(("resnet50",), "pi")


def _model(path: Path, *dims: int | str) -> Path:
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, dims)
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, dims)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["image"], ["out"])], "tiny", [image], [out])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def _image(path: Path) -> Path:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return path


def _device(**changes: object) -> Device:
    backends = (
        Backend("onnxruntime", True, precisions=("as-model", "fp32")),
        Backend("tensorrt", False, reason="the package tensorrt is missing"),
    )
    device = Device("d", DeviceIdentity(), backends, (), Limits(), "0.1.0", 1, 1, "i")
    return replace(device, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"models": ()}, InvalidArgument, "no model"),
        ({"models": ("resnet5",)}, UnknownBackbone, "did you mean resnet50"),
        ({"models": ("no/such.onnx",)}, InvalidArgument, "no file no/such.onnx"),
        ({"models": ("model.onnx",)}, InvalidArgument, "no file model.onnx"),
        ({"models": ("/",)}, InvalidArgument, "is a folder"),
        ({"size": "0"}, InvalidArgument, "not a size"),
        ({"size": "224x"}, InvalidArgument, "not a size"),
        ({"size": "1e3"}, InvalidArgument, "not a size"),
        ({"size": "²"}, InvalidArgument, "not a size"),
        ({"size": "16"}, ShapeMismatch, "from 32 pixels up"),
        ({"frames": 0}, InvalidRunSpec, "--frames is 0; it must be at least 1"),
        ({"warmup": -1}, InvalidRunSpec, "--warmup"),
        ({"batch": 0}, InvalidRunSpec, "--batch is 0; it must be between 1 and 1024"),
        ({"threads": 0}, InvalidRunSpec, "--threads"),
        ({"telemetry_rate_hz": float("nan")}, InvalidRunSpec, "--telemetry-rate"),
        ({"telemetry_rate_hz": 11.0}, InvalidRunSpec, "--telemetry-rate is 11"),
        ({"timeout_s": 0.5}, InvalidRunSpec, "--timeout"),
        ({"budgets": ("p99<=30",)}, InvalidBudget, "unit is missing"),
        ({"budgets": ("p99<=30ms", "speed<=1ms")}, InvalidBudget, "no metric"),
        ({"budgets": ("memory<=1GB",), "memory_pass": False}, InvalidBudget, "--no-memory-pass"),
        ({"inputs": Path("no/such/folder")}, InvalidArgument, "no such file or folder"),
    ],
)
def test_a_wrong_request_is_refused_with_what_is_wrong(
    change: dict[str, object], error: type[InvalidRequest], words: str
) -> None:
    with pytest.raises(error) as caught:
        plan_profile(replace(GOOD, **change))  # type: ignore[arg-type]
    assert words in caught.value.message
    assert caught.value.exit_status == 2


def test_every_image_is_decoded_before_anything_else_happens(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no images"):
        plan_profile(replace(GOOD, inputs=tmp_path))
    for name in ("b.png", "a.JPG"):
        _image(tmp_path / name)
    (tmp_path / "README.md").write_text("not an image, and not taken for one")
    assert [path.name for path in plan_profile(replace(GOOD, inputs=tmp_path)).images] == ["a.JPG", "b.png"]
    (tmp_path / "c.jpg").write_bytes((tmp_path / "a.JPG").read_bytes()[:200])
    with pytest.raises(InvalidImage, match=r"c\.jpg"):
        plan_profile(replace(GOOD, inputs=tmp_path))
    assert plan_profile(replace(GOOD, inputs=tmp_path / "b.png")).images == (tmp_path / "b.png",)


def test_a_backbone_is_its_skeleton_with_its_own_preprocessing() -> None:
    plan = plan_profile(GOOD)
    (spec,) = specifications(plan, ["a" * 64])
    assert is_run_id(spec.run_id)
    assert (spec.model.name, spec.model.source, spec.model.sha256) == ("resnet50", "skeleton", "a" * 64)
    assert (spec.height, spec.width, spec.preprocess.crop_ratio) == (224, 224, 0.95)
    assert not plan.models[0].preprocess_assumed


def test_a_file_has_its_own_size_or_needs_one(tmp_path: Path) -> None:
    fixed = _model(tmp_path / "fixed.onnx", 1, 3, 64, 96)
    free = _model(tmp_path / "free.onnx", "n", 3, "h", "w")
    model = resolve_model(str(fixed))
    assert (model.name, model.source, model.preprocess) == ("fixed", "file", IMAGENET_DEFAULT)
    assert model.preprocess_assumed
    assert model.size(None) == (64, 96)
    with pytest.raises(ShapeMismatch, match="takes height 64 only, not 32"):
        model.size((32, 96))
    with pytest.raises(ShapeMismatch, match="takes batch 1 only, not 4"):
        plan_profile(replace(GOOD, models=(str(fixed),), batch=4))
    with pytest.raises(InvalidArgument, match="--size"):
        plan_profile(replace(GOOD, models=(str(free),)))
    assert plan_profile(replace(GOOD, models=(str(free),), size="48x32", batch=4)).sizes == ((48, 32),)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.onnx"
    path.write_text("not a model")
    with pytest.raises(InvalidModel):
        plan_profile(replace(GOOD, models=(str(path),)))


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("480x640", (480, 640)), ("480X640", (480, 640))])
def test_a_size_is_height_by_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("change", "limits", "error", "words"),
    [
        ({"backend": "tflite"}, {}, UnknownBackend, "it has onnxruntime, tensorrt"),
        ({"backend": "tensorrt"}, {}, BackendUnavailable, "package tensorrt is missing"),
        ({"precision": "int8"}, {}, InvalidArgument, "takes as-model, fp32"),
        ({"frames": 90, "warmup": 11}, {"frame_count": 100}, InvalidRunSpec, "--frames and --warmup"),
        ({"timeout_s": 61.0}, {"run_duration_ns": 60 * 10**9}, InvalidRunSpec, "--timeout"),
        ({}, {"artifact_bytes": 1000}, MessageTooLarge, "at most 1000"),
    ],
)
def test_what_the_device_would_refuse_is_refused_here(
    change: dict[str, object], limits: dict[str, int], error: type[Exception], words: str
) -> None:
    plan = plan_profile(replace(GOOD, **change))  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        check_device(plan, _device(limits=Limits(**limits)))


def test_a_plan_that_fits_the_device_passes() -> None:
    check_device(plan_profile(GOOD), _device())
