"""Models that are exported, converted and given reference outputs on their way to a real agent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from backbench.controller.client import AgentClient
from backbench.controller.export.calibration import shipped_photographs
from backbench.controller.export.exporter import Conversion, convert_file
from backbench.controller.export.manifest import SideFiles, manifest_of
from backbench.controller.export.reference_outputs import reference_frames, reference_from_model
from backbench.controller.operations.devices import add_device
from backbench.controller.operations.making import ModelMaker, ModelOrder
from backbench.controller.operations.models import resolve_model
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.plan import ProfileRequest, plan_profile
from backbench.controller.operations.profile import profile
from backbench.controller.operations.stop import Stop
from backbench.controller.store import RunRecord, Store
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import InvalidArgument
from backbench.domain.preprocess import IMAGENET_DEFAULT
from backbench.models.catalog import recipe, skeleton_path
from backbench.models.onnx_input import inspect_input
from backbench.models.reference import TOLERANCES, read_reference
from backbench.models.skeleton import is_skeleton, materialise

SMALL = "mobilenetv3_small_100"
QUICK = ProfileRequest((SMALL,), "here", size="64", frames=10, warmup=1, memory_pass=False, telemetry_rate_hz=0)


@pytest.fixture
def here(store: Store, address: str) -> Store:
    add_device(store, "here", address)
    return store


class Steps(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)


def run_one(store: Store, request: ProfileRequest) -> tuple[RunRecord, dict[str, Any], list[str]]:
    observer = Steps()
    (record,) = profile(store, plan_profile(request), observer, Stop())
    assert record.document is not None
    return record, record.document, observer.steps


def tiny(path: Path) -> Path:
    """A small network with real weights that says nothing of itself."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((16, 3, 3, 3)), "h": rng.standard_normal((16, 10))}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["image", "w"], ["a"], pads=[1] * 4, strides=[2, 2]),
            onnx.helper.make_node("GlobalAveragePool", ["a"], ["b"]),
            onnx.helper.make_node("Flatten", ["b"], ["c"]),
            onnx.helper.make_node("Gemm", ["c", "h"], ["logits"]),
        ],
        "tiny",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 10])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def test_a_skeleton_travels_with_the_outputs_of_what_it_stands_for(here: Store, address: str) -> None:
    record, document, steps = run_one(here, QUICK)
    assert document["state"] == "done"
    assert document["outputs"]["passed"]
    assert document["outputs"]["frame_count"] == 3
    assert document["outputs"]["reference"].startswith("onnxruntime ")
    assert [check["name"] for check in document["outputs"]["checks"]] == ["logits"]
    assert (record.spec.model.source, record.spec.model.precision) == ("skeleton", "fp32")
    assert record.spec.model.sha256 == hashlib.sha256(skeleton_path(SMALL).read_bytes()).hexdigest()
    with AgentClient(address) as client:
        kinds = {artifact.sha256: artifact.kind for artifact in client.list_artifacts()}
    assert kinds[record.spec.model.sha256] is ArtifactKind.SKELETON
    assert kinds[record.spec.model.reference_sha256] is ArtifactKind.REFERENCE
    assert steps == [f"reference outputs of {SMALL}", ""]


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_skeleton_stays_one_in_another_precision_and_is_not_made_twice(precision: str, here: Store) -> None:
    request = replace(QUICK, precision=precision)
    first, document, steps = run_one(here, request)
    assert document["outputs"]["passed"]
    assert (document["model"]["source"], document["model"]["precision"]) == ("skeleton", precision)
    assert steps == [f"convert to {precision}", f"reference outputs of {SMALL}", ""]
    made = {path.name: path for path in (here.root / "models").glob("*/*.onnx")}
    assert list(made) == ["model.skeleton.onnx"]
    small = made["model.skeleton.onnx"]
    assert hashlib.sha256(small.read_bytes()).hexdigest() == first.spec.model.sha256
    assert is_skeleton(small)
    assert small.stat().st_size < 300_000 < recipe(SMALL).params
    contract = inspect_input(small)
    assert (contract.precision, contract.dims) == (precision, (1, 3, 64, 64))
    second, _, again = run_one(here, request)
    assert again == [""]
    assert second.spec.model == first.spec.model


def test_a_file_is_converted_and_checked_against_itself(here: Store, tmp_path: Path) -> None:
    path = tiny(tmp_path / "tiny.onnx")
    for precision in ("int8", "fp16"):
        request = replace(QUICK, models=(str(path),), size=None, precision=precision)
        record, document, steps = run_one(here, request)
        assert document["outputs"]["passed"]
        assert (document["model"]["source"], document["model"]["name"]) == ("file", "tiny")
        assert steps == [f"convert to {precision}", ""]
        assert record.spec.model.sha256 != hashlib.sha256(path.read_bytes()).hexdigest()
        assert run_one(here, request)[2] == [""]
    assert [each.name for each in tmp_path.glob("*.*")] == ["tiny.onnx"]


def test_a_file_of_open_size_is_checked_at_the_size_that_it_is_run_at(here: Store, tmp_path: Path) -> None:
    model = onnx.load(tiny(tmp_path / "open.onnx"))
    for place, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    files = SideFiles(tmp_path / "open.onnx")
    data = model.SerializeToString()
    files.model.write_bytes(data)
    frames = reference_frames(None, IMAGENET_DEFAULT, 32, 32)
    reference_from_model(files.model, frames, IMAGENET_DEFAULT, files.reference)
    sha256 = hashlib.sha256(files.reference.read_bytes()).hexdigest()
    manifest = manifest_of(model, data, "open.onnx", IMAGENET_DEFAULT, None, None, sha256)
    files.manifest.write_text(json.dumps(manifest))
    for size, made in (("32", [""]), ("48x40", ["reference outputs of open", ""])):
        _, document, steps = run_one(here, replace(QUICK, models=(str(files.model),), size=size))
        assert document["outputs"]["passed"]
        assert steps == made


def test_a_file_is_made_again_when_it_or_what_is_asked_for_has_changed(here: Store, tmp_path: Path) -> None:
    path, images = tiny(tmp_path / "tiny.onnx"), shipped_photographs()[0].parent
    request = replace(QUICK, models=(str(path),), size=None, precision="int8")
    assert "convert to int8" in run_one(here, request)[2]
    calibrated = replace(request, calibration=images)
    assert "convert to int8" in run_one(here, calibrated)[2]
    assert run_one(here, calibrated)[2] == [""]
    model = onnx.load(str(path))
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((16, 3, 3, 3), np.float32), "w"))
    onnx.save(model, path)
    assert "convert to int8" in run_one(here, request)[2]


def test_a_file_without_a_reference_is_run_unchecked(here: Store, tmp_path: Path) -> None:
    record, document, steps = run_one(here, replace(QUICK, models=(str(tiny(tmp_path / "tiny.onnx")),), size=None))
    assert (document["state"], document["outputs"], steps) == ("done", None, [""])
    assert (record.spec.model.precision, record.spec.model.reference_sha256) == ("as-model", "")


def test_a_file_brings_its_own_reference_and_no_other(here: Store, tmp_path: Path) -> None:
    source = tiny(tmp_path / "tiny.onnx")
    files = convert_file(source, 1, 32, 32, Conversion("fp16"), tmp_path / "half.onnx", lambda _: None).files
    request = replace(QUICK, models=(str(files.model),), size=None)
    record, document, _ = run_one(here, request)
    assert document["outputs"]["passed"]
    assert record.spec.model.reference_sha256 == hashlib.sha256(files.reference.read_bytes()).hexdigest()
    for name in ("manifest", "reference"):  # those of half.onnx lie beside tiny.onnx now
        old, new = getattr(files, name), getattr(SideFiles(source), name)
        new.write_bytes(old.read_bytes())
    assert run_one(here, replace(request, models=(str(source),)))[1]["outputs"] is None
    files.reference.write_bytes(files.reference.read_bytes()[:-1])
    assert run_one(here, request)[1]["outputs"] is None


def test_what_is_in_another_precision_already_is_not_converted(here: Store, tmp_path: Path) -> None:
    source = tiny(tmp_path / "tiny.onnx")
    model = onnx.load(str(source))
    onnx.helper.set_model_props(model, {"backbench.model": '{"precision": "int8"}'})
    onnx.save(model, source)
    plan = plan_profile(replace(QUICK, models=(str(source),), size=None, precision="fp16"))
    with pytest.raises(InvalidArgument, match="is int8 already; leave --precision away, or give the fp32 model"):
        profile(here, plan, Observer(), Stop())
    assert here.runs() == ()


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed (pip install 'backbench[export]')")
def test_a_backbone_with_weights_is_exported_once_and_checked_against_torch(here: Store) -> None:
    request = replace(QUICK, models=("resnet18",), weights="random")
    record, document, steps = run_one(here, request)
    assert [step.partition(": ")[2] for step in steps] == ["import torch", "create", "export", "compare", ""]
    assert (document["model"]["source"], document["model"]["weights"]) == ("export", "random:0")
    assert document["model"]["verification"]["against"].startswith("torch ")
    assert document["outputs"]["passed"]
    assert document["outputs"]["reference"].startswith("torch ")
    assert record.spec.preprocess == recipe("resnet18").preprocess
    assert run_one(here, request)[2] == [""]

    (model,) = (here.root / "models").glob("*/model.onnx")
    again, document, _ = run_one(here, replace(request, models=(str(model),), weights=None, size=None))
    assert document["model"]["source"] == "file"
    assert document["outputs"]["passed"]
    assert again.spec.model.reference_sha256 == record.spec.model.reference_sha256
    assert again.spec.model.sha256 == record.spec.model.sha256


Maker = Callable[..., ModelMaker]


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    def made(limit_bytes: int = 1 << 30) -> ModelMaker:
        return ModelMaker(tmp_path / "models", lambda _: None, limit_bytes)

    return made


def folders(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "models").iterdir()}


def test_reference_outputs_are_those_of_the_size_and_the_precision(maker: Maker) -> None:
    model = maker().with_reference(resolve_model(SMALL), (64, 96))
    assert model.reference is not None
    reference = read_reference(model.reference)
    assert (reference.height, reference.width, reference.precision) == (64, 96, "fp32")
    assert reference.tolerance == TOLERANCES["fp32"]
    half = maker().converted(resolve_model(SMALL), (64, 64), 2, Conversion("fp16"))
    assert half.reference is not None
    assert read_reference(half.reference).tolerance == TOLERANCES["fp16"]
    assert half.contract.dims == (2, 3, 64, 64)
    assert half.manifest is not None
    assert half.manifest["precision"]["precision"] == "fp16"


def test_an_int8_skeleton_keeps_the_quantizers_numbers(maker: Maker, tmp_path: Path) -> None:
    small = maker().converted(resolve_model(SMALL), (64, 64), 1, Conversion("int8", "cpu")).path
    materialise(small, tmp_path / "whole.onnx", batch=1, height=64, width=64)
    whole = onnx.load(str(tmp_path / "whole.onnx"))
    kinds = {tensor.name: tensor.data_type for tensor in whole.graph.initializer}
    quantized = [node for node in whole.graph.node if node.op_type == "DequantizeLinear"]
    weights = [node.input[0] for node in quantized if kinds.get(node.input[0]) == onnx.TensorProto.INT8]
    assert len(weights) > 40
    skeleton = {tensor.name: tensor for tensor in onnx.load(str(small)).graph.initializer}
    scales = [onnx.numpy_helper.to_array(skeleton[node.input[1]]) for node in quantized]
    assert all(np.isfinite(scale).all() and (scale > 0).all() for scale in scales)


def test_a_step_that_fails_leaves_nothing_and_is_tried_again(maker: Maker, tmp_path: Path) -> None:
    source = tiny(tmp_path / "tiny.onnx")
    model = resolve_model(str(source))
    source.write_bytes(source.read_bytes()[:-400])
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="gone"):
            maker().converted(replace(model, path=tmp_path / "gone.onnx"), (32, 32), 1, Conversion("fp16"))
        with pytest.raises(Exception, match=r"tiny\.onnx"):
            maker().converted(model, (32, 32), 1, Conversion("fp16"))
        assert folders(tmp_path) == set()
    tiny(source)
    assert maker().converted(model, (32, 32), 1, Conversion("fp16")).precision is None


def test_the_longest_unused_models_make_room(maker: Maker, tmp_path: Path) -> None:
    model, one, other = resolve_model(str(tiny(tmp_path / "tiny.onnx"))), Conversion("fp16"), Conversion("int8")
    first = maker().converted(model, (32, 32), 1, one)
    second = maker(limit_bytes=1).converted(model, (32, 32), 1, other)
    assert not first.path.exists()
    assert second.path.exists()
    assert folders(tmp_path) == {second.path.parent.name}


def test_what_is_used_again_is_kept_before_what_is_not(maker: Maker, tmp_path: Path) -> None:
    model = resolve_model(str(tiny(tmp_path / "tiny.onnx")))
    made = {
        name: maker().converted(model, (32, 32), 1, Conversion(*name))
        for name in (("fp16", "cpu"), ("int8", "cpu"))
    }  # fmt: skip
    size = sum(file.stat().st_size for file in made["int8", "cpu"].path.parent.iterdir())
    maker().converted(model, (32, 32), 1, Conversion("fp16"))
    third = maker(limit_bytes=size + size // 2).converted(model, (32, 32), 1, Conversion("int8", "tensorrt"))
    assert made["fp16", "cpu"].path.exists()
    assert not made["int8", "cpu"].path.exists()
    assert third.path.exists()


def test_models_of_one_plan_do_not_push_each_other_out(maker: Maker, tmp_path: Path) -> None:
    model, of_one_plan = resolve_model(str(tiny(tmp_path / "tiny.onnx"))), maker(limit_bytes=1)
    made = [
        of_one_plan.converted(model, (32, 32), 1, Conversion("fp16")),
        of_one_plan.converted(model, (32, 32), 1, Conversion("int8")),
        of_one_plan.with_reference(resolve_model(SMALL), (32, 32)),
    ]
    assert all(each.path.exists() for each in made)
    assert all(each.reference and each.reference.exists() for each in made)


def test_an_order_takes_the_sizes_of_its_recipe_where_it_has_one() -> None:
    known, other = ModelOrder("resnet18", "random", recipe("resnet18")), ModelOrder("levit_128s", "random")
    assert (known.size(None), known.size((64, 96))) == ((224, 224), (64, 96))
    assert (other.size(None), other.size((64, 96))) == (None, (64, 96))
    assert not known.preprocess_assumed
    known.check_batch(1024)
