"""Calibration: gains with which numbers neither grow nor fade, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from numpy.typing import NDArray

from backbench.models.calibration import calibrated, run_by_reference
from backbench.models.onnx_input import metadata
from backbench.models.skeleton import materialise, read_recipes, skeleton_from_onnx

Array = NDArray[Any]
Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[Array]]
SmallModel = Callable[[float], onnx.ModelProto]


def root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))


def image(batch: int, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((batch, 3, height, width), dtype=np.float32)


def results(
    skeleton: onnx.ModelProto, folder: Path, outputs: Outputs, size: tuple[int, int, int], also: str
) -> list[Array]:
    """The output of the model that `skeleton` becomes, and one value more."""
    (folder / "s.onnx").write_bytes(skeleton.SerializeToString(deterministic=True))
    materialise(folder / "s.onnx", folder / "m.onnx", batch=size[0], height=size[1], width=size[2])
    model = onnx.load(folder / "m.onnx")
    model.graph.output.append(onnx.ValueInfoProto(name=also))
    return outputs(model, image(*size))


def test_calibration_brings_every_product_to_a_root_mean_square_of_one(
    small_model: SmallModel, tmp_path: Path, outputs: Outputs
) -> None:
    skeleton = calibrated(skeleton_from_onnx(small_model(0.0)), width=16)
    logits, first = results(skeleton, tmp_path, outputs, (1, 16, 64), "a")
    assert root_mean_square(first) == pytest.approx(1.0, rel=0.1)
    assert 0.3 < root_mean_square(logits) < 3


def test_a_skeleton_is_calibrated_at_a_size_other_than_the_one_it_was_made_for(
    token_skeleton: onnx.ModelProto, tmp_path: Path, outputs: Outputs
) -> None:
    skeleton = calibrated(token_skeleton, height=64, width=96)
    logits, first = results(skeleton, tmp_path, outputs, (3, 48, 32), "a")
    assert root_mean_square(first) == pytest.approx(1.0, rel=0.1)
    assert root_mean_square(logits) == pytest.approx(1.0, rel=0.4)


def test_only_gains_of_weights_change_and_they_have_three_digits(token_skeleton: onnx.ModelProto) -> None:
    done = calibrated(token_skeleton, height=32, width=32)
    (seed, before, sizes), (seed_after, after, sizes_after) = read_recipes(token_skeleton), read_recipes(done)
    assert (seed, sizes) == (seed_after, sizes_after)
    assert {name for name in before if before[name] != after[name]} == {"patch.weight", "head.weight"}
    assert [
        float(f"{recipe.gain:.3g}") for name, recipe in after.items() if name in ("patch.weight", "head.weight")
    ] == [
        after["patch.weight"].gain,
        after["head.weight"].gain,
    ]
    assert done.graph == token_skeleton.graph
    assert list(metadata(done)) == ["backbench.skeleton"]


def test_the_skeleton_that_is_given_stays_as_it_is_and_the_result_is_the_same_every_time(
    small_model: SmallModel,
) -> None:
    skeleton = skeleton_from_onnx(small_model(0.0))
    first = calibrated(skeleton, width=16).SerializeToString(deterministic=True)
    assert skeleton == skeleton_from_onnx(small_model(0.0))
    assert first == calibrated(skeleton, width=16).SerializeToString(deterministic=True)


def test_the_noise_has_the_size_that_the_skeleton_has_fixed(small_model: SmallModel) -> None:
    model = small_model(0.0)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    shapes: list[tuple[int, ...]] = []

    def run(operator: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
        shapes.append(tuple(feeds.get("image", np.zeros(0)).shape))
        return run_by_reference(operator, feeds)

    calibrated(skeleton_from_onnx(model), height=128, width=24, run=run)
    assert shapes[0] == (3, 3, 16, 24)


def test_a_weight_before_a_quantizer_keeps_its_gain(small_model: SmallModel) -> None:
    model = small_model(0.0)
    tensors = {"step": np.array(0.01, np.float32), "zero": np.array(0, np.int8)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in tensors.items())
    quantizers = [
        onnx.helper.make_node("QuantizeLinear", ["conv.weight", "step", "zero"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["dq"]),
    ]
    nodes = [*quantizers, *model.graph.node]
    nodes[2].input[1] = "dq"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    skeleton = skeleton_from_onnx(model)
    before, after = read_recipes(skeleton)[1], read_recipes(calibrated(skeleton, width=16))[1]
    assert before["conv.weight"].kind == "weight"
    assert before["conv.weight"] == after["conv.weight"]
    assert before["head.weight"] != after["head.weight"]
