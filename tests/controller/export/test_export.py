"""Exports by a process of its own, as on the command line: their files, and what they say of themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnxruntime as ort
import pytest

from backbench.controller.analysis.graph import analyse
from backbench.controller.export.exporter import Conversion, Exported, export
from backbench.controller.export.manifest import reference_beside
from backbench.controller.export.request import ExportRequest
from backbench.domain.errors import UnknownBackbone
from backbench.domain.preprocess import Preprocess
from backbench.models import catalog
from backbench.models.graph import shaped_graph
from backbench.models.hygiene import content_sha256
from backbench.models.onnx_input import MODEL_KEY, PREPROCESS_KEY, inspect_input, metadata
from backbench.models.reference import TOLERANCES, output_errors, read_reference

# What torch, torchvision and timm say of themselves while they are imported is not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")

Exports = Callable[[ExportRequest], Exported]

PLAIN = ExportRequest("resnet18", 64, 64)
LEVELS = ExportRequest("vit_tiny_patch16_224", 96, 112, features=True)
TRACES = (
    b"site-packages",
    b"/home",
    str(Path(__file__).parents[3]).encode(),
    b"/root",
    b"/tmp",
    b".py",
    b"stack_trace",
    b"torch_lib",
)


def outputs_of(model: Path, image: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def noise(*dims: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).standard_normal(dims).astype(np.float32)


def test_nothing_in_a_file_tells_where_it_was_made(exports: Exports) -> None:
    for request in (PLAIN, LEVELS):
        for path in exports(request).files.model.parent.iterdir():
            data = path.read_bytes()
            # Weights and images are bytes of any kind: the longer texts cannot occur there by chance.
            assert not [text for text in TRACES if text in data and (len(text) > 4 or path.suffix == ".json")]
        model = onnx.load(str(exports(request).files.model))
        assert not model.graph.value_info
        assert not model.doc_string
        assert not [node.name for node in model.graph.node if node.doc_string or node.metadata_props]
        assert not [node.name for node in model.graph.node if ".py" in node.name or "/" in node.name]


def test_an_export_says_what_it_is(exports: Exports, timm: Any) -> None:
    exported = exports(PLAIN)
    model = onnx.load(str(exported.files.model))
    onnx.checker.check_model(model, full_check=True)
    config = timm.get_pretrained_cfg("resnet18")
    props = metadata(model)
    facts = json.loads(props[MODEL_KEY])
    digest = facts.pop("weights_sha256")
    assert len(bytes.fromhex(digest)) == 32
    versions = facts.pop("versions")
    assert set(versions) == {"torch", "timm", "onnx", "onnxscript"}
    assert versions["timm"] == timm.__version__
    assert facts == {
        "schema": "backbench.model/1",
        "name": "resnet18",
        "tag": config.tag,
        "source": "timm",
        "licence": config.license,
        "weights": "random:0",
        "deploy_form": True,
        "opset": 20,
        "params": sum(parameter.numel() for parameter in timm.create_model("resnet18").parameters()),
        "precision": "fp32",
        "target": "any",
        "input": {"name": "image", "dims": [1, 3, 64, 64], "layout": "NCHW", "color": "RGB", "dtype": "float32"},
        "outputs": [
            {"name": "logits", "kind": "logits", "stride": None, "channels": 1000, "layout": "NC", "module": None}
        ],
        "exporter": "torch.onnx dynamo",
        "quantization": None,
    }
    assert json.loads(props[PREPROCESS_KEY]) == {
        "mean": list(config.mean),
        "std": list(config.std),
        "interpolation": config.interpolation,
        "crop_ratio": config.crop_pct,
    }
    contract = inspect_input(exported.files.model)
    assert (contract.opset, contract.precision, contract.dims) == (20, "fp32", (1, 3, 64, 64))


def test_the_manifest_says_the_same_and_whose_it_is(exports: Exports) -> None:
    exported = exports(PLAIN)
    files, manifest = exported.files, json.loads(exported.files.manifest.read_text())
    assert manifest == json.loads(json.dumps(exported.manifest))
    assert files.manifest.name == "resnet18.manifest.json"
    assert files.reference.name == "resnet18.reference.npz"
    data, model = files.model.read_bytes(), onnx.load(str(files.model))
    assert manifest["schema"] == "backbench.manifest/1"
    assert manifest["file"] == "resnet18.onnx"
    assert manifest["size_bytes"] == len(data)
    assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["content_sha256"] == content_sha256(model)
    assert manifest["reference_sha256"] == hashlib.sha256(files.reference.read_bytes()).hexdigest()
    assert manifest["model"] == json.loads(metadata(model)[MODEL_KEY])
    assert manifest["preprocess"] == json.loads(metadata(model)[PREPROCESS_KEY])
    assert manifest["preprocess_digest"] == catalog.recipe("resnet18").preprocess.digest
    assert manifest["precision"] is None
    verification = manifest["verification"]
    assert verification["against"].startswith("torch ")
    assert verification["sizes"] == [[64, 64]]
    assert verification["frame_count"] == 3
    assert verification["max_relative_error"] == {"logits": verification["worst"]}
    assert 0 <= verification["worst"] <= verification["tolerance"]
    assert exported.export_s is not None
    assert exported.export_s > 0


def test_the_reference_is_torchs_and_the_model_keeps_to_it(exports: Exports) -> None:
    for request in (PLAIN, LEVELS):
        exported = exports(request)
        files, image = exported.files, exported.manifest["preprocess"]
        assert reference_beside(files.model, exported.manifest) == files.reference
        reference = read_reference(files.reference)
        assert reference.made_by.startswith("torch ")
        assert (reference.precision, reference.tolerance) == ("fp32", TOLERANCES["fp32"])
        assert (reference.height, reference.width) == (request.height, request.width)
        preprocess = Preprocess(tuple(image["mean"]), tuple(image["std"]), image["interpolation"], image["crop_ratio"])
        rows = [outputs_of(files.model, frame[None]) for frame in reference.normalised(preprocess)]
        produced = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        errors = output_errors(reference, produced)
        assert [error.name for error in errors] == [output["name"] for output in exported.manifest["model"]["outputs"]]
        assert all(error.within(1e-4) for error in errors)


def test_feature_maps_have_the_levels_that_timm_states(exports: Exports, timm: Any) -> None:
    files = exports(LEVELS).files
    info = timm.create_model(LEVELS.name, features_only=True, img_size=(96, 112)).feature_info
    outputs = exports(LEVELS).manifest["model"]["outputs"]
    assert [output["stride"] for output in outputs] == info.reduction() == [16, 16, 16]
    assert [output["channels"] for output in outputs] == info.channels()
    assert [output["module"] for output in outputs] == info.module_name()
    assert {(output["kind"], output["layout"]) for output in outputs} == {("feature_map", "NCHW")}
    produced = outputs_of(files.model, noise(1, 3, 96, 112))
    assert list(produced) == [output["name"] for output in outputs]
    assert {values.shape for values in produced.values()} == {(1, 192, 6, 7)}
    analysis = analyse(shaped_graph(files.model, batch=1, height=96, width=112))
    assert [output.map.stride_px if output.map else None for output in analysis.outputs] == [(16, 16)] * 3


@pytest.mark.usefixtures("exports")
def test_what_is_done_is_told_and_a_refused_export_leaves_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    request = ExportRequest("resnt18", 64, 64)
    with pytest.raises(UnknownBackbone, match="'resnt18'; did you mean resnet18") as caught:
        export(request, Conversion(), tmp_path / "model.onnx", told.append)
    assert "\n" not in caught.value.message
    assert told == ["export resnt18: import torch", "export resnt18: create"]
    assert not list(tmp_path.iterdir())
