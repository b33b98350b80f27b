"""Reference frames through real engines: what is right passes, and nothing that is wrong does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from backbench.agent.backends.base import Engine, OpenRequest, WorkerFailure
from backbench.agent.backends.onnxruntime import OnnxRuntimeCpu
from backbench.agent.worker.job import Job
from backbench.agent.worker.outputs import opened_reference, output_checks
from backbench.domain.preprocess import IMAGENET_DEFAULT
from backbench.domain.run import FailureReason
from backbench.models.reference import TOLERANCES, write_reference

MakeJob = Callable[..., Job]
SIZE = 16
FRAMES = np.random.Generator(np.random.PCG64(5)).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def model(
    path: Path, *, batch: int = 1, seed: int = 0, factor: Any = 1.0, tail: str = "Relu", name: str = "out"
) -> Path:
    """A convolution times `factor`, then `tail`; its pooled numbers are the output `name`, beside `features`."""
    weights = np.random.Generator(np.random.PCG64(seed)).standard_normal((4, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["convolved", "factor"], ["scaled"]),
        helper.make_node(tail, ["scaled"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], [name]),
    ]
    shapes = {"image": [batch, 3, SIZE, SIZE], "features": [batch, 4, SIZE, SIZE], name: [batch, 4, 1, 1]}
    values = {key: helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in shapes.items()}
    tensors = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(factor), "factor")]
    graph = helper.make_graph(nodes, "tiny", [values["image"]], [values["features"], values[name]], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def opened(path: Path, slot: NDArray[np.float32]) -> Engine:
    batch, _, height, width = slot.shape
    engine = OnnxRuntimeCpu().open(OpenRequest(str(path), (batch, 3, height, width), threads=1, spin=False))
    engine.bind([slot])
    return engine


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """What the model of seed 0 gives for three frames."""
    from onnx.reference import ReferenceEvaluator

    pixels = FRAMES.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    mean, std = (
        np.array(values, np.float32)[:, None, None] for values in (IMAGENET_DEFAULT.mean, IMAGENET_DEFAULT.std)
    )
    evaluator = ReferenceEvaluator(str(model(tmp_path / "right.onnx")))
    frames = [evaluator.run(None, {"image": frame[None]}) for frame in (pixels - mean) / std]
    outputs = {
        name: np.concatenate(values)
        for name, values in zip(("features", "out"), zip(*frames, strict=True), strict=True)
    }
    path = tmp_path / "reference.npz"
    write_reference(path, FRAMES, outputs, tolerance=1e-3, made_by="onnx", precision="fp32")
    return path


@pytest.fixture
def check(make_job: MakeJob, reference: Path, tmp_path: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """The checks of a model with some of its parts changed, by output."""

    def run(batch: int = 1, precision: str = "", **changes: Any) -> dict[str, dict[str, Any]]:
        job = make_job(reference_path=str(reference), batch=batch, height=SIZE, width=SIZE, precision=precision)
        known = opened_reference(job)
        assert known is not None
        told: list[int] = []
        slot = np.zeros((batch, 3, SIZE, SIZE), np.float32)
        with opened(model(tmp_path / "tested.onnx", batch=batch, **changes), slot) as engine:
            rows = output_checks(known, job, engine, slot, lambda: told.append(1))
        assert len(told) == 3
        return {row["name"]: row for row in rows}

    return run


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_same_model_passes_in_every_place_of_a_batch(check: Any, batch: int) -> None:
    checks = check(batch)
    assert list(checks) == ["features", "out"]
    for row in checks.values():
        assert row["passed"]
        assert row["finite"]
        assert 0 <= row["max_relative_error"] < 1e-5
        assert row["cosine"] == pytest.approx(1)
        assert (row["tolerance"], row["frame_count"], row["made_by"]) == (1e-3, 3, "onnx")


def test_other_weights_do_not_pass(check: Any) -> None:
    row = check(seed=1)["features"]
    assert not row["passed"]
    assert row["finite"]
    assert row["max_relative_error"] > 0.1
    assert row["cosine"] < 0.99


def test_an_error_a_little_above_the_tolerance_does_not_pass(check: Any) -> None:
    assert check(factor=1.0009)["out"]["passed"]
    assert not check(factor=1.0011)["out"]["passed"]


def test_an_engine_that_was_asked_for_less_precision_than_the_model_s_is_judged_by_it(check: Any) -> None:
    row = check(factor=1.04, precision="fp16")["out"]
    assert (row["passed"], row["tolerance"]) == (True, TOLERANCES["fp16"])
    assert not check(factor=1.06, precision="fp16")["out"]["passed"]


def test_numbers_that_are_not_finite_do_not_pass(check: Any) -> None:
    for row in check(tail="Log").values():
        assert not row["passed"]
        assert not row["finite"]
        assert row["max_relative_error"] is row["cosine"] is None


def test_an_output_that_is_missing_does_not_pass(check: Any) -> None:
    checks = check(name="renamed")
    assert not checks["out"]["passed"]
    assert not checks["out"]["finite"]
    assert checks["features"]["passed"]


@pytest.mark.parametrize("wrong", [0, 2])
def test_a_batch_that_is_wrong_in_its_first_or_last_place_alone_does_not_pass(check: Any, wrong: int) -> None:
    factor = np.ones((3, 1, 1, 1), np.float32)
    factor[wrong] = 0.5
    assert not check(3, factor=factor)["features"]["passed"]


def test_a_run_without_a_reference_has_none(make_job: MakeJob) -> None:
    assert opened_reference(make_job()) is None


def test_a_reference_of_another_size_is_refused_with_both_sizes(make_job: MakeJob, reference: Path) -> None:
    with pytest.raises(WorkerFailure, match="16x16, the run is of 16x20") as caught:
        opened_reference(make_job(reference_path=str(reference), width=20))
    assert caught.value.reason is FailureReason.INVALID_INPUT


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" * 50])
def test_a_damaged_reference_is_refused_in_one_line(make_job: MakeJob, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reference.npz"
    path.write_bytes(content)
    for job in (make_job(reference_path=str(path)), make_job(reference_path=str(tmp_path / "missing.npz"))):
        with pytest.raises(WorkerFailure, match="the reference outputs cannot be used") as caught:
            opened_reference(job)
        assert caught.value.reason is FailureReason.INVALID_INPUT
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


class Failing:
    """An engine whose inference raises, as a device does that has lost its memory."""

    output_names = ("features",)

    def infer(self, slot: int) -> None:  # noqa: ARG002
        raise RuntimeError("out of\nmemory")


def test_an_engine_that_fails_on_a_reference_frame_is_an_output_mismatch(make_job: MakeJob, reference: Path) -> None:
    job = make_job(reference_path=str(reference))
    known = opened_reference(job)
    assert known is not None
    engine: Any = Failing()
    with pytest.raises(WorkerFailure, match=r"fails on frame 0 of the reference.*out of memory") as caught:
        output_checks(known, job, engine, np.zeros((1, 3, SIZE, SIZE), np.float32), lambda: None)
    assert caught.value.reason is FailureReason.OUTPUT_MISMATCH
