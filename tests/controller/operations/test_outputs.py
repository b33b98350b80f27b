"""Reference outputs on a real agent: they must be there, stay there, and be kept to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import pytest

from backbench.controller.cli.verdict import status_of
from backbench.controller.client import AgentClient
from backbench.controller.client.uploads import Upload
from backbench.controller.operations.follow import follow
from backbench.controller.push import push
from backbench.controller.store import RunRecord, Store
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import ArtifactNotFound, DeviceBusy
from backbench.domain.identifiers import new_run_id
from backbench.domain.preprocess import IMAGENET_DEFAULT
from backbench.domain.run import InputSpec, ModelRef, RunSpec, RunState, Scenario
from backbench.models.reference import Reference, write_reference

SIZE = 8
FRAMES = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Upload:
    """One operator: the image where it is positive."""
    shape = [1, 3, SIZE, SIZE]
    image, out = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("image", "features")
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["image"], ["features"])], "tiny", [image], [out])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "relu.onnx")
    return Upload(tmp_path / "relu.onnx", ArtifactKind.MODEL, "relu")


def reference(
    path: Path, factor: float = 1.0, frames: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = FRAMES
) -> Upload:
    """What the model gives for the frames, times `factor`."""
    inputs = Reference(frames, (), 1.0, "", "").normalised(IMAGENET_DEFAULT)
    outputs = {"features": np.maximum(inputs, 0) * np.float32(factor)}
    write_reference(path, frames, outputs, tolerance=1e-3, made_by="numpy", precision="fp32")
    return Upload(path, ArtifactKind.REFERENCE, path.name)


def specification(model: str, reference_sha256: str, frames: int = 30) -> RunSpec:
    return RunSpec(
        new_run_id(),
        ModelRef("relu", model, "file", reference_sha256=reference_sha256),
        SIZE,
        SIZE,
        scenario=Scenario(frame_count=frames, warmup_frame_count=2),
        inputs=InputSpec(synthetic_count=2),
        memory_pass=False,
        telemetry_rate_hz=0,
    )


def measured(store: Store, client: AgentClient, spec: RunSpec) -> RunRecord:
    store.create_run(spec, "here", None, ("max<=10s",))
    client.submit_run(spec)
    return follow(store, client, spec.run_id)


def test_a_right_engine_passes_and_the_same_engine_with_a_wrong_reference_is_invalid(
    store: Store, client: AgentClient, model: Upload, tmp_path: Path
) -> None:
    uploads = [model, reference(tmp_path / "right.npz"), reference(tmp_path / "wrong.npz", 1.1)]
    of_model, right, wrong = push(client, uploads)
    kinds = {artifact.sha256: artifact.kind for artifact in client.list_artifacts()}
    assert kinds[right] is ArtifactKind.REFERENCE

    fine = measured(store, client, specification(of_model, right)).document
    assert fine is not None
    assert fine["outputs"]["passed"]
    assert fine["outputs"]["frame_count"] == 2
    assert fine["outputs"]["checks"][0]["max_relative_error"] == 0.0
    assert (fine["verdict"], status_of([fine])) == ("pass", 0)

    bad = measured(store, client, specification(of_model, wrong)).document
    assert bad is not None
    assert bad["state"] == "done"
    assert bad["outputs"]["checks"][0]["max_relative_error"] == pytest.approx(0.1 / 1.1, rel=1e-3)
    assert bad["validity"]["status"] == "invalid"
    assert bad["verdict"] == "unknown"
    assert bad["frames"]["completed"] == 30
    assert status_of([bad], strict=True) == 4


def test_a_reference_of_another_size_is_bad_input(
    store: Store, client: AgentClient, model: Upload, tmp_path: Path
) -> None:
    smaller = reference(tmp_path / "smaller.npz", frames=np.ascontiguousarray(FRAMES[:, :4]))
    of_model, of_reference = push(client, [model, smaller])
    document = measured(store, client, specification(of_model, of_reference)).document
    assert document is not None
    assert document["failure"]["reason"] == "invalid_input"
    assert "4x8, the run is of 8x8" in document["failure"]["message"]
    assert document["frames"]["offered"] == 0
    assert status_of([document]) == 2


def test_an_artifact_that_is_no_reference_is_bad_input(store: Store, client: AgentClient, model: Upload) -> None:
    (of_model,) = push(client, [model])
    document = measured(store, client, specification(of_model, of_model)).document
    assert document is not None
    assert document["failure"]["reason"] == "invalid_input"
    assert "\n" not in document["failure"]["message"]


def test_a_run_whose_reference_is_missing_is_refused(client: AgentClient, model: Upload) -> None:
    (of_model,) = push(client, [model])
    spec = specification(of_model, "f" * 64)
    with pytest.raises(ArtifactNotFound, match="ffffffffffff"):
        client.submit_run(spec)
    assert spec.run_id not in [run.spec.run_id for run in client.list_runs()]


def test_a_reference_cannot_be_deleted_while_a_run_needs_it(client: AgentClient, model: Upload, tmp_path: Path) -> None:
    of_model, of_reference = push(client, [model, reference(tmp_path / "kept.npz", 1.5)])
    spec = replace(specification(of_model, of_reference, frames=1_500_000))
    client.submit_run(spec)
    with pytest.raises(DeviceBusy, match=of_reference[:12]):
        client.delete_artifact(of_reference)
    assert client.cancel_run(spec.run_id).state is RunState.CANCELLED
    client.delete_artifact(of_reference)
