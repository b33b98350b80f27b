"""Skeletons of models in int8 and fp16: what a quantizer was given stays to the bit, what is large is made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.checker
import onnx.numpy_helper
import pytest
from numpy.typing import NDArray

from backbench.controller.export.calibration import CalibrationSet, shipped_photographs
from backbench.controller.export.precision import convert
from backbench.models.catalog import skeleton_path
from backbench.models.graph import shaped_graph
from backbench.models.onnx_input import inspect_input
from backbench.models.skeleton import is_skeleton, materialise, read_recipes, skeleton_from_onnx

Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]
Target = Literal["cpu", "tensorrt"]
SIDE = 64
BYTES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
SETTINGS = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


@pytest.fixture(scope="module")
def fp32(folder: Path) -> Path:
    """mobilenetv3_small_100 at 64x64 with weights."""
    path = folder / "fp32.onnx"
    materialise(skeleton_path("mobilenetv3_small_100"), path, batch=1, height=SIDE, width=SIDE)
    return path


@pytest.fixture(scope="module")
def converted(folder: Path, fp32: Path) -> dict[str, Path]:
    """The model in int8 for both targets and in fp16; with real scales, from two photographs."""
    photographs = shipped_photographs()
    images = CalibrationSet(photographs[:1], photographs[1:2], found_count=2)
    targets: tuple[tuple[Literal["int8", "fp16"], Target, str], ...] = (
        ("int8", "cpu", "cpu"), ("int8", "tensorrt", "tensorrt"), ("fp16", "cpu", "fp16"),
    )  # fmt: skip
    paths = {}
    for precision, target, name in targets:
        paths[name] = folder / f"{name}.onnx"
        convert(fp32, paths[name], precision, target, inputs=images)
    return paths


def initialisers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def settings(model: onnx.ModelProto) -> set[str]:
    """The scales and zero points that are initialisers."""
    tensors = initialisers(model)
    return {
        node.input[place]
        for node in model.graph.node
        for place in SETTINGS.get(node.op_type, ())
        if len(node.input) > place and node.input[place] in tensors
    }


def skeleton_of(path: Path, folder: Path) -> tuple[onnx.ModelProto, Path]:
    skeleton = skeleton_from_onnx(onnx.load(path))
    written = folder / "s.onnx"
    written.write_bytes(skeleton.SerializeToString(deterministic=True))
    return skeleton, written


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_every_scale_and_zero_point_is_kept_to_the_bit(target: str, converted: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(converted[target])
    skeleton, path = skeleton_of(converted[target], tmp_path)
    materialise(path, tmp_path / "m.onnx", batch=1, height=SIDE, width=SIDE)
    names = settings(model)
    before, between, after = map(initialisers, (model, skeleton, onnx.load(tmp_path / "m.onnx")))
    assert len(names) > 100
    assert max(np.prod(before[name].dims, dtype=int) for name in names) > 100
    for name in names:
        wanted = onnx.numpy_helper.to_array(before[name])
        for kept in (between[name], after[name]):
            have = onnx.numpy_helper.to_array(kept)
            assert (have.dtype, have.shape, have.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes()), name


def test_int8_weights_are_dropped_and_spread_as_before_when_made_anew(
    converted: dict[str, Path], tmp_path: Path
) -> None:
    model = onnx.load(converted["cpu"])
    skeleton, path = skeleton_of(converted["cpu"], tmp_path)
    materialise(path, tmp_path / "m.onnx", batch=1, height=SIDE, width=SIDE)
    before, after, recipes = (
        initialisers(model),
        initialisers(onnx.load(tmp_path / "m.onnx")),
        read_recipes(skeleton)[1],
    )
    large = {
        name for name, tensor in before.items()
        if tensor.data_type in BYTES and name not in settings(model) and np.prod(tensor.dims, dtype=int) >= 100
    }  # fmt: skip
    assert len(large) > 40
    assert {name for name, recipe in recipes.items() if recipe.kind == "integer"} == large
    assert not any(initialisers(skeleton)[name].raw_data for name in large)
    for name in large:
        old, new = (onnx.numpy_helper.to_array(tensors[name]).astype(np.float64) for tensors in (before, after))
        assert (old.shape, np.abs(new).max() <= recipes[name].gain <= 127) == (new.shape, True)
        assert new.std() == pytest.approx(np.sqrt(np.mean(old**2)), rel=0.15), name


def test_the_weights_of_tensorrts_kind_stay_floating_point_numbers_that_fit_their_scales(
    converted: dict[str, Path], tmp_path: Path
) -> None:
    model = onnx.load(converted["tensorrt"])
    skeleton, path = skeleton_of(converted["tensorrt"], tmp_path)
    materialise(path, tmp_path / "m.onnx", batch=1, height=SIDE, width=SIDE)
    before, after, recipes = (
        initialisers(model),
        initialisers(onnx.load(tmp_path / "m.onnx")),
        read_recipes(skeleton)[1],
    )
    quantized = [
        node.input for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in before
    ]
    made = [inputs for inputs in quantized if inputs[0] in recipes]
    assert len(made) > 40
    for weight, scale, *_ in made:
        assert recipes[weight].kind == "weight"
        assert recipes[weight].fan_in > 1
        steps = (
            np.abs(onnx.numpy_helper.to_array(after[weight])).max() / onnx.numpy_helper.to_array(before[scale]).max()
        )
        assert 10 < steps < 200, weight


def test_fp16_weights_are_dropped_and_come_back_in_fp16(converted: dict[str, Path], tmp_path: Path) -> None:
    skeleton, path = skeleton_of(converted["fp16"], tmp_path)
    materialise(path, tmp_path / "m.onnx", batch=1, height=SIDE, width=SIDE)
    after, recipes = initialisers(onnx.load(tmp_path / "m.onnx")), read_recipes(skeleton)[1]
    assert {after[name].data_type for name in recipes} == {onnx.TensorProto.FLOAT16}
    for name in recipes:
        made = onnx.numpy_helper.to_array(after[name])
        assert np.isfinite(made).all()
        assert made.std() > 0


@pytest.mark.parametrize("kind", ["cpu", "tensorrt", "fp16"])
def test_the_model_made_anew_has_the_same_graph_and_runs(
    kind: str, converted: dict[str, Path], tmp_path: Path, outputs: Outputs
) -> None:
    _, path = skeleton_of(converted[kind], tmp_path)
    materialise(path, tmp_path / "m.onnx", batch=1, height=SIDE, width=SIDE)
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    before, after = onnx.load(converted[kind]), onnx.load(tmp_path / "m.onnx")
    bare = [[(node.op_type, list(node.input), list(node.output)) for node in m.graph.node] for m in (before, after)]
    assert bare[0] == bare[1]
    assert {name: (each.data_type, list(each.dims)) for name, each in initialisers(before).items()} == {
        name: (each.data_type, list(each.dims)) for name, each in initialisers(after).items()
    }
    image = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), dtype=np.float32)
    made, original = outputs(tmp_path / "m.onnx", image)[0], outputs(converted[kind], image)[0]
    assert np.isfinite(made).all()
    assert 0.2 * original.std() < made.std() < 5 * original.std()


@pytest.mark.parametrize(
    ("kind", "precision", "times"), [("cpu", "int8", 8), ("tensorrt", "int8", 30), ("fp16", "fp16", 30)]
)
def test_the_skeleton_is_far_smaller_than_its_model_and_says_the_same_of_itself(
    kind: str, precision: str, times: int, converted: dict[str, Path], tmp_path: Path
) -> None:
    _, path = skeleton_of(converted[kind], tmp_path)
    assert path.stat().st_size * times < converted[kind].stat().st_size
    assert is_skeleton(path)
    contract, original = inspect_input(path), inspect_input(converted[kind])
    assert (contract.precision, original.precision) == (precision, precision)
    assert (contract.dims, contract.outputs, contract.preprocess) == (
        original.dims, original.outputs, original.preprocess,
    )  # fmt: skip
    graph = shaped_graph(path, batch=1, height=SIDE, width=SIDE).graph
    assert [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == [1, 1000]


@pytest.mark.parametrize("kind", ["cpu", "tensorrt", "fp16"])
def test_the_skeleton_is_the_same_every_time(kind: str, converted: dict[str, Path], tmp_path: Path) -> None:
    first = skeleton_of(converted[kind], tmp_path)[1].read_bytes()
    assert skeleton_of(converted[kind], tmp_path)[1].read_bytes() == first
