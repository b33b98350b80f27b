"""A model that keeps weights in other files, on its way from the command line to a device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backbench.controller.client import AgentClient
from backbench.controller.export.exporter import Conversion
from backbench.controller.operations import making
from backbench.controller.operations.device_check import check_device
from backbench.controller.operations.inspect import InspectRequest, inspect_model
from backbench.controller.operations.making import ModelMaker
from backbench.controller.operations.models import resolve_model
from backbench.controller.operations.plan import ProfileRequest, ReadyModel, plan_profile, specifications, uploads
from backbench.controller.push import push
from backbench.domain.artifact import ArtifactKind
from backbench.domain.device import Backend, Device, DeviceIdentity, Limits
from backbench.domain.errors import InvalidModel, MessageTooLarge, VersionMismatch
from backbench.domain.event import RunResult
from backbench.domain.run import BackendSpec, ExternalData, RunState
from backbench.wire.digest import sha256_of_file

SIZE = 16


def save(folder: Path, seed: int = 0) -> Path:
    """A model in three files: the graph, and one of each tensor."""
    random = np.random.default_rng(seed)
    weights = {"first": (8, 3, 7, 7), "second": (16, 8, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["map"]),
        helper.make_node("Conv", ["map", "second"], ["output"]),
    ]
    shapes = {"image": [1, 3, SIZE, SIZE], "output": [1, 16, 8, 8]}
    image, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in shapes.items())
    initialisers = [
        numpy_helper.from_array(random.normal(size=dims).astype(np.float32), name) for name, dims in weights.items()
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [output], initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "mine.onnx"
    for name in weights:
        (folder / name).unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(model, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(tmp_path)


def request(path: Path) -> ProfileRequest:
    return ProfileRequest((str(path),), "pi", frames=5, warmup=1, memory_pass=False, telemetry_rate_hz=0)


def device(**changes: object) -> Device:
    backends = (Backend("onnxruntime", True, max_opset=17),)
    found = Device("d", DeviceIdentity(), backends, (), Limits(), "0.1.0", 4, 1, "i", features=("external-data",))
    return replace(found, **changes)  # type: ignore[arg-type]


def test_it_goes_to_a_device_with_its_files_and_runs_there(path: Path, client: AgentClient) -> None:
    plan = plan_profile(request(path))
    ready = [ReadyModel(resolve_model(str(path)), (SIZE, SIZE), BackendSpec())]
    files = uploads(plan, ready)
    assert [upload.kind for upload in files] == [ArtifactKind.MODEL, ArtifactKind.WEIGHTS, ArtifactKind.WEIGHTS]
    digests = dict(zip([upload.path for upload in files], push(client, files), strict=True))
    assert client.find_missing(tuple(digests.values())) == ()
    (spec,) = specifications(plan, ready, digests)
    assert spec.model.external == tuple(
        ExternalData(name, sha256_of_file(path.parent / name)) for name in ("first", "second")
    )
    check_device(plan, client.get_device())
    client.submit_run(spec)
    results = [event.event for event in client.watch_run(spec.run_id) if isinstance(event.event, RunResult)]
    assert [(result.state, result.completed_count) for result in results] == [(RunState.DONE, 5)]


def test_it_is_inspected(path: Path) -> None:
    document = inspect_model(InspectRequest(str(path))).document()
    assert document["model"]["size"] == [SIZE, SIZE]
    assert document["outputs"][0]["name"] == "output"


def test_an_agent_that_cannot_take_it_is_named_before_anything_is_sent(path: Path) -> None:
    plan = plan_profile(request(path))
    with pytest.raises(VersionMismatch, match="models with weights in other files"):
        check_device(plan, device(features=()))
    with pytest.raises(MessageTooLarge, match="first has"):
        check_device(plan, device(limits=Limits(artifact_bytes=3000)))
    with pytest.raises(InvalidModel, match="has opset 17; onnxruntime on pi takes up to 16: export it with --opset 16"):
        check_device(plan, device(backends=(Backend("onnxruntime", True, max_opset=16),)))
    check_device(plan, device())


def test_what_was_made_of_it_is_made_again_when_its_weights_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def convert(source: Path, *rest: Any) -> None:
        made.append(source)
        onnx.save(onnx.load(source), rest[4])

    monkeypatch.setattr(making, "convert_file", convert)
    for seed in (0, 0, 1):
        model = resolve_model(str(save(tmp_path, seed)))
        ModelMaker(tmp_path / "made", lambda _: None).converted(model, (SIZE, SIZE), 1, Conversion("fp16"))
    assert len(made) == 2


def test_a_model_whose_file_is_missing_is_refused_in_one_line(path: Path) -> None:
    (path.parent / "second").unlink()
    with pytest.raises(InvalidModel, match="second, which cannot be read"):
        resolve_model(str(path))
