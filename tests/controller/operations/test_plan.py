from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest
from PIL import Image

from backbench.controller.operations import plan as plan_module
from backbench.controller.operations.making import ModelOrder
from backbench.controller.operations.models import ModelFile, parse_size, resolve_model
from backbench.controller.operations.plan import (
    Gate,
    Plan,
    ProfileRequest,
    ReadyModel,
    newest_opset,
    plan_profile,
    routes_of,
    specifications,
    uploads,
)
from backbench.domain.artifact import ArtifactKind
from backbench.domain.device import Backend, Device, DeviceIdentity, Limits
from backbench.domain.errors import (
    InvalidArgument,
    InvalidBudget,
    InvalidImage,
    InvalidModel,
    InvalidRequest,
    InvalidRunSpec,
    ShapeMismatch,
    UnknownBackbone,
)
from backbench.domain.identifiers import is_run_id
from backbench.domain.preprocess import IMAGENET_DEFAULT
from backbench.domain.run import SECOND_NS, BackendSpec, ScenarioName
from backbench.models.catalog import recipe
from backbench.models.onnx_input import MODEL_KEY

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


def _device(backend: Backend) -> Device:
    return Device("d", DeviceIdentity(), (backend,), (), Limits(), "0.1.0", 1, 1, "i")


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
        ({"telemetry_rate_hz": 50.1}, InvalidRunSpec, "--telemetry-rate is 50.1; it must be between 0 and 50"),
        ({"telemetry_rate_hz": 0.0, "sensor": ("pmic",)}, InvalidArgument, "--sensor is of no use"),
        ({"telemetry_rate_hz": 0.0, "budgets": ("energy<=1J",)}, InvalidBudget, "energy is telemetry"),
        ({"wait_cool": "45"}, InvalidArgument, '--wait-cool "45": the unit is missing; write one of C'),
        ({"wait_cool": "45K"}, InvalidArgument, '"K" is not a unit of temperature'),
        ({"wait_cool": "0C"}, InvalidRunSpec, "--wait-cool is 0C; it must lie between 1C and 120C"),
        ({"wait_cool": "45C", "max_wait": "10"}, InvalidArgument, '--max-wait "10": the unit is missing'),
        ({"max_wait": "10m"}, InvalidArgument, "--max-wait is of no use without --wait-cool"),
        ({"regime": "lokced"}, InvalidArgument, "did you mean locked"),
        ({"timeout_s": 0.5}, InvalidRunSpec, "--timeout"),
        ({"budgets": ("p99<=30",)}, InvalidBudget, "unit is missing"),
        ({"budgets": ("p99<=30ms", "speed<=1ms")}, InvalidBudget, "no metric"),
        ({"budgets": ("memory<=1GB",), "memory_pass": False}, InvalidBudget, "--no-memory-pass"),
        ({"inputs": Path("no/such/folder")}, InvalidArgument, "no such file or folder"),
        ({"scenario": "paced"}, InvalidRunSpec, "scenario paced needs --fps N"),
        ({"fps": 30.0}, InvalidRunSpec, "--fps is of no use in scenario closed-loop"),
        ({"launches": 0}, InvalidRunSpec, "--launches is 0; it must be between 1 and 100"),
        (
            {"scenario": "sweep", "launches": 2},
            InvalidRunSpec,
            "--launches is 2; the launches of scenario sweep are its",
        ),
        (
            {"scenario": "streams", "streams": 2, "launches": 2},
            InvalidRunSpec,
            "--launches is 2; the launches of scenario",
        ),
        ({"seed": -1}, InvalidRunSpec, "--seed is -1"),
        ({"seed": 1, "inputs": Path()}, InvalidRunSpec, "--seed is of no use with --inputs"),
        ({"postprocess": "top-5"}, InvalidArgument, '--postprocess "top-5" is not known; did you mean top-1?'),
        ({"memory_limit": "256"}, InvalidArgument, '--memory-limit "256": the unit is missing'),
        ({"memory_limit": "0MB"}, InvalidRunSpec, "--memory-limit is 0MB; it must lie between 1MB"),
        ({"scenario": "soak", "timeout_s": 599.0}, InvalidRunSpec, "the timed windows alone take 600 s"),
        ({"budgets": ("drops<=1%",)}, InvalidBudget, 'budget "drops<=1%": in closed-loop no frame arrives before'),
        ({"budgets": ("preprocess.p50<=1ms",)}, InvalidBudget, "synthetic images are not preprocessed"),
        ({"budgets": ("postprocess.p50<=1ms",)}, InvalidBudget, "add --postprocess top-1"),
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


def _ready(plan: Plan) -> tuple[ReadyModel, ...]:
    """The models of a plan as they are, without any making."""
    models = [model for model in plan.models if isinstance(model, ModelFile)]
    return tuple(
        ReadyModel(model, model.size(size), BackendSpec()) for model, size in zip(models, plan.sizes, strict=True)
    )


def test_a_backbone_is_its_skeleton_with_its_own_preprocessing() -> None:
    plan = plan_profile(GOOD)
    ready = _ready(plan)
    (spec,) = specifications(plan, ready, {ready[0].model.path: "a" * 64})
    assert is_run_id(spec.run_id)
    assert (spec.model.name, spec.model.source, spec.model.sha256) == ("resnet50", "skeleton", "a" * 64)
    assert (spec.model.precision, spec.model.reference_sha256) == ("fp32", "")
    assert (spec.height, spec.width, spec.preprocess.crop_ratio) == (224, 224, 0.95)
    assert not plan.models[0].preprocess_assumed


def test_a_run_names_its_model_its_reference_and_its_images(tmp_path: Path) -> None:
    image, reference = _image(tmp_path / "image.png"), tmp_path / "reference.npz"
    reference.write_bytes(b"")
    plan = plan_profile(replace(GOOD, models=("resnet50", "resnet18"), inputs=image, name="pair"))
    first, second = _ready(plan)
    ready = (replace(first, model=replace(first.model, reference=reference)), second)
    sent = uploads(plan, ready)
    assert [(upload.path, upload.kind) for upload in sent] == [
        (first.model.path, ArtifactKind.SKELETON),
        (reference, ArtifactKind.REFERENCE),
        (second.model.path, ArtifactKind.SKELETON),
        (image, ArtifactKind.IMAGE),
    ]
    digests = {upload.path: digit * 64 for upload, digit in zip(sent, "abcd", strict=True)}
    specs = specifications(plan, ready, digests)
    assert [(spec.model.sha256[0], spec.model.reference_sha256[:1]) for spec in specs] == [("a", "b"), ("c", "")]
    assert [[each.sha256[0] for each in spec.inputs.images] for spec in specs] == [["d"], ["d"]]
    assert {spec.labels["name"] for spec in specs} == {"pair"}


def test_a_file_that_two_runs_need_is_sent_once(tmp_path: Path) -> None:
    plan = plan_profile(replace(GOOD, models=(str(_model(tmp_path / "a.onnx", 1, 3, 8, 8)),) * 2))
    assert len(uploads(plan, _ready(plan))) == 1


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


def test_scenario_limits_and_launches_reach_the_run(tmp_path: Path) -> None:
    path = tmp_path / "camera.txt"
    path.write_text("0\n200000000000\n")
    asked = {"trace": path, "launches": 3, "memory_limit": "256MB", "postprocess": "top-1", "seed": 5}
    plan = plan_profile(replace(GOOD, scenario="trace", **asked))  # type: ignore[arg-type]
    ready = _ready(plan)
    sent = uploads(plan, ready)
    assert [(upload.kind, upload.name) for upload in sent][-1] == (ArtifactKind.TRACE, "camera.txt")
    digests = {upload.path: digit * 64 for upload, digit in zip(sent, "ab", strict=True)}
    (spec,) = specifications(plan, ready, digests)
    assert (spec.scenario.name, spec.scenario.trace_sha256) == (ScenarioName.TRACE, "b" * 64)
    assert (spec.launches, spec.memory_limit_bytes, spec.postprocess) == (3, 256_000_000, "top-1")
    assert spec.inputs.seed == 5
    assert (spec.group_id, spec.group_size) == ("", 0)


def test_a_run_has_an_hour_besides_its_windows() -> None:
    plan = plan_profile(replace(GOOD, scenario="idle-fire", idle_gap="5m", frames=10, launches=2))
    ready = _ready(plan)
    (spec,) = specifications(plan, ready, {ready[0].model.path: "a" * 64})
    assert spec.run_timeout_ns == (3600 + 2 * 10 * 300) * SECOND_NS
    assert plan_profile(replace(GOOD, timeout_s=7.0)).timeout_s == 7.0


def _stated(path: Path, precision: str) -> Path:
    """A file that says in which precision it is."""
    model = onnx.load(str(_model(path, 1, 3, 8, 8)))
    onnx.helper.set_model_props(model, {MODEL_KEY: json.dumps({"precision": precision})})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_is_not_converted_back(precision: str, tmp_path: Path) -> None:
    path = _stated(tmp_path / "small.onnx", precision)
    with pytest.raises(InvalidArgument, match=f"small.onnx is {precision} already; leave --precision away"):
        plan_profile(replace(GOOD, models=(str(path),), precision="fp32"))
    plan_profile(replace(GOOD, models=(str(_stated(path, "fp32")),), precision="fp32"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "int4"}, '--precision "int4" is not known; take one of fp32, fp16, int8'),
        ({"precision": "int8", "target": "npu"}, '--for "npu" is not known; take cpu or tensorrt'),
        ({"target": "tensorrt"}, "--for is of no use without --precision int8"),
        ({"calibration": Path()}, "--calibration is of no use without --precision int8"),
        ({"calibration": Path(), "precision": "fp32"}, "--calibration is of no use for fp32"),
        ({"calibration": Path("gone"), "precision": "int8"}, "gone: no such file or folder"),
        ({"weights": "gone.safetensors"}, "--weights gone.safetensors: no such file; take pretrained, random or"),
        ({"weights": "random", "models": ("gone.onnx",)}, "no file gone.onnx; check the path"),
        ({"weights": "random", "models": ("some/thing",)}, "no file some/thing; check the path"),
    ],
)
def test_what_cannot_be_exported_or_converted_is_refused_before_anything_happens(
    change: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "require_export", lambda: None)
    with pytest.raises(InvalidArgument) as caught:
        plan_profile(replace(GOOD, **change))  # type: ignore[arg-type]
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_weights_are_for_names_and_not_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "require_export", lambda: None)
    path = _model(tmp_path / "mine.onnx", 1, 3, 8, 8)
    with pytest.raises(InvalidArgument, match=r"mine.onnx has its weights; leave --weights away"):
        plan_profile(replace(GOOD, models=(str(path),), weights="random"))
    known = plan_profile(replace(GOOD, weights="random"))
    assert (known.models, known.sizes) == ((ModelOrder("resnet50", "random", recipe("resnet50")),), ((224, 224),))
    with pytest.raises(ShapeMismatch, match="resnet50 does not take 8x8"):
        plan_profile(replace(GOOD, weights="random", size="8"))
    other = plan_profile(replace(GOOD, models=("resnet50.tv_in1k",), weights="pretrained"))
    assert (other.models, other.sizes) == ((ModelOrder("resnet50.tv_in1k", "pretrained"),), (None,))


def test_a_name_that_is_not_in_the_catalogue_can_be_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownBackbone, match="any other timm name needs --weights random or pretrained"):
        plan_profile(replace(GOOD, models=("levit_128s",)))
    monkeypatch.setattr(plan_module, "require_export", lambda: None)
    assert plan_profile(replace(GOOD, models=("levit_128s",), weights="random")).sizes == (None,)


@pytest.mark.parametrize(("newest", "opset"), [(None, 20), (17, 17), (20, 20), (23, 20)])
def test_an_export_is_for_what_the_backend_takes(newest: int | None, opset: int) -> None:
    device = _device(Backend("onnxruntime", True, max_opset=newest))
    assert newest_opset(routes_of(plan_profile(GOOD), device)) == opset


def test_how_the_device_is_prepared_is_in_the_specification_and_its_wait_in_the_longest_time() -> None:
    prepared = {"wait_cool": "45.5 C", "max_wait": "20m", "regime": "locked", "set_clocks": True}
    plan = plan_profile(replace(GOOD, sensor=("pmic",), telemetry_rate_hz=50.0, **prepared))  # type: ignore[arg-type]
    assert plan.gate is not None
    assert (plan.gate.temperature_mc, plan.gate.limit_ns) == (45_500, 1200 * SECOND_NS)
    assert plan.timeout_s == plan_profile(GOOD).timeout_s + 1200
    model = plan.models[0]
    assert isinstance(model, ModelFile)
    (spec,) = specifications(plan, [ReadyModel(model, (224, 224), BackendSpec())], _Digests())
    assert (spec.wait_cool_mc, spec.wait_cool_limit_ns) == (45_500, 1200 * SECOND_NS)
    assert (spec.regime, spec.set_clocks, spec.extra_sources, spec.telemetry_rate_hz) == (
        "locked",
        True,
        ("pmic",),
        50.0,
    )
    assert plan_profile(replace(GOOD, wait_cool="45C")).gate == Gate(45_000, 600 * SECOND_NS)


class _Digests(dict[Path, str]):
    """The same for every file."""

    def __missing__(self, path: Path) -> str:
        return "a" * 64
