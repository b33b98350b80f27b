"""Models that cannot be run, over the real path: pushed to a real agent, submitted, and ended in one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backbench.controller.client import AgentClient
from backbench.domain.artifact import ArtifactKind
from backbench.domain.errors import InvalidModel, InvalidRunSpec, MessageTooLarge
from backbench.domain.event import RunResult
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ExternalData, FailureReason, ModelRef, RunFailure, RunSpec, RunState, Scenario
from backbench.wire.digest import sha256_of_file

SIZE = 16


def a_model(operator: str = "Conv", opset: int = 17, side: int | str = "side") -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.ones((32, 3, 5, 5), np.float32), "weight")
    shape, out = [1, 3, side, side], ["batch", "channels", "height", "width"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["image", "weight"], ["output"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, out)],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def in_two_files(folder: Path, location: str = "weights.data") -> tuple[Path, Path]:
    """A model and the file that holds its weights; its graph then names `location`."""
    path = folder / "model.onnx"
    onnx.save_model(a_model(), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    return path, folder / "weights.data"


@dataclass
class Runs:
    """Pushes files as they are and runs what they are said to be."""

    client: AgentClient

    def push(self, path: Path) -> str:
        sha256 = sha256_of_file(path)
        self.client.upload(path, sha256, ArtifactKind.MODEL, path.name)
        return sha256

    def ended(self, path: Path, external: tuple[ExternalData, ...] = (), side: int = SIZE) -> RunResult:
        model = ModelRef("mine", self.push(path), "file", external=external)
        scenario = Scenario(frame_count=5, warmup_frame_count=1)
        spec = RunSpec(new_run_id(), model, side, side, scenario=scenario, memory_pass=False, telemetry_rate_hz=0)
        self.client.submit_run(spec)
        (result,) = (e.event for e in self.client.watch_run(spec.run_id) if isinstance(e.event, RunResult))
        return result

    def failure(self, path: Path, external: tuple[ExternalData, ...] = (), side: int = SIZE) -> RunFailure:
        result = self.ended(path, external, side)
        assert result.state is RunState.FAILED
        assert result.failure is not None
        message = result.failure.message
        assert "\n" not in message
        assert "Traceback" not in message
        assert message.startswith(("the model ", "ONNX Runtime ")) or "mine" in message
        assert "artifacts/" not in message
        return result.failure


@pytest.fixture(scope="module")
def runs(shared_agent: Any) -> Iterator[Runs]:
    with AgentClient(shared_agent.address) as client:
        yield Runs(client)


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def truncated(folder: Path) -> Path:
    path = saved(a_model(), folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def no_onnx(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(b"PK\x03\x04 this is something else altogether" * 10)
    return path


def newer_ir(folder: Path) -> Path:
    model = a_model()
    model.ir_version = 9999
    return saved(model, folder)


BAD: dict[str, tuple[Callable[[Path], Path], FailureReason, str]] = {
    "truncated": (truncated, FailureReason.INVALID_MODEL, "export or copy the model again"),
    "not ONNX": (no_onnx, FailureReason.INVALID_MODEL, "not an ONNX model"),
    "unknown operator": (
        lambda folder: saved(a_model(operator="Wibble"), folder), FailureReason.INVALID_MODEL, "knows no such operator"
    ),
    "newer IR version": (newer_ir, FailureReason.INVALID_MODEL, "IR version 9999 is newer than"),
    "newer opset": (
        lambda folder: saved(a_model(opset=9999), folder), FailureReason.INVALID_MODEL, "opset 9999 is newer than"
    ),
    "another size": (
        lambda folder: saved(a_model(side=20), folder), FailureReason.SHAPE_MISMATCH, "takes 1x3x20x20"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_model_that_cannot_be_run_ends_its_run_with_what_is_wrong_and_the_remedy(
    kind: str, runs: Runs, tmp_path: Path
) -> None:
    make, reason, words = BAD[kind]
    failure = runs.failure(make(tmp_path))
    assert failure.reason is reason
    assert words in failure.message


def test_a_size_at_which_the_graph_does_not_work_is_named(runs: Runs, tmp_path: Path) -> None:
    failure = runs.failure(saved(a_model(), tmp_path), side=3)
    assert failure.reason is FailureReason.SHAPE_MISMATCH
    assert "3x3" in failure.message


def test_an_empty_file_is_not_even_taken(runs: Runs, tmp_path: Path) -> None:
    empty = tmp_path / "empty.onnx"
    empty.touch()
    with pytest.raises(MessageTooLarge, match=r"empty\.onnx has 0 bytes"):
        runs.push(empty)


def test_a_model_with_its_weights_in_another_file_runs(runs: Runs, tmp_path: Path) -> None:
    path, weights = in_two_files(tmp_path, "parts/weights.data")
    result = runs.ended(path, (ExternalData("parts/weights.data", runs.push(weights)),))
    assert (result.state, result.failure) == (RunState.DONE, None)


@pytest.mark.parametrize("location", ["../../../etc/passwd", "/etc/passwd"])
def test_a_graph_that_names_a_file_outside_its_folder_is_refused_and_the_path_is_named(
    location: str, runs: Runs, tmp_path: Path
) -> None:
    path, _ = in_two_files(tmp_path, location)
    failure = runs.failure(path)
    assert failure.reason is FailureReason.INVALID_MODEL
    assert ascii(location) in failure.message


@pytest.mark.parametrize("location", ["../../../etc/passwd", "/etc/passwd", "a/../../b", "a\\b", "a//b"])
def test_a_run_that_names_a_file_outside_its_model_s_folder_is_not_taken(
    location: str, runs: Runs, tmp_path: Path
) -> None:
    path, weights = in_two_files(tmp_path)
    model = ModelRef("mine", runs.push(path), "file", external=(ExternalData(location, runs.push(weights)),))
    with pytest.raises(InvalidModel, match="of its weights"):
        runs.client.submit_run(RunSpec(new_run_id(), model, SIZE, SIZE))


def test_a_skeleton_with_files_beside_it_is_not_taken(runs: Runs, tmp_path: Path) -> None:
    path, weights = in_two_files(tmp_path)
    model = ModelRef("mine", runs.push(path), "skeleton", external=(ExternalData("weights.data", runs.push(weights)),))
    with pytest.raises(InvalidRunSpec, match="a skeleton has no weights"):
        runs.client.submit_run(RunSpec(new_run_id(), model, SIZE, SIZE))


def test_files_that_the_graph_does_not_name_and_those_that_did_not_come_are_named(runs: Runs, tmp_path: Path) -> None:
    path, weights = in_two_files(tmp_path)
    assert "'weights.data', which did not come with it" in runs.failure(path).message
    sha256 = runs.push(weights)
    both = (ExternalData("weights.data", sha256), ExternalData("other.data", sha256))
    assert "no weights of it lie in 'other.data'" in runs.failure(path, both).message


def test_a_file_of_weights_that_is_too_short_is_named(runs: Runs, tmp_path: Path) -> None:
    path, weights = in_two_files(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1])
    failure = runs.failure(path, (ExternalData("weights.data", runs.push(weights)),))
    assert failure.reason is FailureReason.INVALID_MODEL
    assert "weights.data does not hold the weights of 'weight'" in failure.message


def test_other_weights_under_the_same_name_are_another_model(runs: Runs, tmp_path: Path) -> None:
    path, weights = in_two_files(tmp_path)
    spec = ModelRef("mine", runs.push(path), "file", external=(ExternalData("weights.data", runs.push(weights)),))
    assert runs.ended(path, spec.external).state is RunState.DONE
    weights.write_bytes(bytes(len(weights.read_bytes()) - 4))
    changed = replace(spec.external[0], sha256=runs.push(weights))
    assert "does not hold" in runs.failure(path, (changed,)).message
