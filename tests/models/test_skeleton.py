"""Skeletons: making them, telling them apart, and the models they become."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import pytest
from numpy.typing import NDArray

from backbench.domain.errors import DiskFull, InvalidModel, ShapeMismatch, StoreUnusable
from backbench.models.catalog import skeleton_path
from backbench.models.onnx_input import inspect_input, metadata, model_facts
from backbench.models.random_weights import TensorRecipe
from backbench.models.sized_numbers import SizedNumbers, sizes_from_json
from backbench.models.skeleton import (
    SCHEMA,
    SMALLEST_DROPPED,
    is_skeleton,
    materialise,
    read_recipes,
    skeleton_from_onnx,
)

SMALLEST_NORMAL = np.finfo(np.float32).tiny
Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]
SmallModel = Callable[[float], onnx.ModelProto]
TokenModel = Callable[[int, int, int], onnx.ModelProto]


def image(batch: int, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((batch, 3, height, width), dtype=np.float32)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def test_a_materialised_model_is_sound_fixed_in_size_and_no_skeleton(mobilenet: Path) -> None:
    onnx.checker.check_model(str(mobilenet), full_check=True)
    contract = inspect_input(mobilenet)
    assert (contract.dims, contract.outputs[0].dims) == ((1, 3, 224, 224), (1, 1000))
    assert set(metadata(onnx.load(mobilenet))) == {"backbench.preprocess", "backbench.model"}
    assert not is_skeleton(mobilenet)


def test_a_materialised_model_states_its_own_size_and_all_else_that_its_skeleton_states(tmp_path: Path) -> None:
    skeleton = skeleton_path("mobilenetv3_large_100")
    materialise(skeleton, tmp_path / "m.onnx", batch=3, height=40, width=64)
    before, after = (model_facts(onnx.load(path), path) for path in (skeleton, tmp_path / "m.onnx"))
    assert after["input"]["dims"] == [3, 3, 40, 64]
    before["input"]["dims"] = after["input"]["dims"]
    assert before == after


@pytest.mark.parametrize("facts", ["{}", '{"input": 7}', '{"input": []}'])
def test_a_model_that_does_not_state_its_size_is_materialised_as_it_is(
    facts: str, token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    token_skeleton.metadata_props.insert(0, onnx.StringStringEntryProto(key="backbench.model", value=facts))
    materialise(saved(token_skeleton, tmp_path / "s.onnx"), tmp_path / "m.onnx", batch=1, height=32, width=32)
    assert metadata(onnx.load(tmp_path / "m.onnx")) == {"backbench.model": facts}


@pytest.mark.parametrize("facts", ["", "null", "[]", "{" * 100_000], ids=["nothing", "null", "a list", "very deep"])
def test_a_model_that_states_nonsense_of_itself_is_not_materialised(
    facts: str, token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    token_skeleton.metadata_props.insert(0, onnx.StringStringEntryProto(key="backbench.model", value=facts))
    with pytest.raises(InvalidModel, match="remove it"):
        materialise(saved(token_skeleton, tmp_path / "s.onnx"), tmp_path / "m.onnx", batch=1, height=32, width=32)
    assert not (tmp_path / "m.onnx").exists()


def test_materialising_twice_gives_the_same_bytes(mobilenet: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    materialise(skeleton_path("mobilenetv3_large_100"), again, batch=1, height=224, width=224)
    assert again.read_bytes() == mobilenet.read_bytes()


def test_materialising_resnet50_keeps_far_less_than_its_weights_in_memory(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport backbench.models.skeleton as s\n"
        "def peak():\n    text = Path('/proc/self/status').read_text()\n"
        "    return int(text.split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "s.materialise(Path(sys.argv[1]), Path(sys.argv[2]), batch=1, height=224, width=224)\n"
        "print((peak() - before) * 1024, Path(sys.argv[2]).stat().st_size)"
    )
    command = [sys.executable, "-c", code, str(skeleton_path("resnet50")), str(tmp_path / "resnet50.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, size = (int(word) for word in done.stdout.split())
    assert size > 100_000_000
    assert grown < 50_000_000


def test_a_skeleton_keeps_small_tensors_and_drops_large_ones(small_model: SmallModel) -> None:
    skeleton = skeleton_from_onnx(small_model(0.0))
    seed, recipes, sizes = read_recipes(skeleton)
    assert (seed, sizes) == (0, SizedNumbers())
    assert {name: recipe.kind for name, recipe in recipes.items()} == {
        "conv.weight": "weight",
        "scale": "scale",
        "offset": "offset",
        "head.weight": "weight",
        "head.bias": "offset",
    }
    assert (recipes["conv.weight"].fan_in, recipes["head.weight"].fan_in) == (27, 64)
    assert recipes["conv.weight"].gain == pytest.approx(0.2 * 27**0.5, rel=0.05)
    kept = {tensor.name for tensor in skeleton.graph.initializer if tensor.raw_data}
    assert kept == {"conv.bias"}


@pytest.mark.parametrize(("count", "dropped"), [(SMALLEST_DROPPED - 1, False), (SMALLEST_DROPPED, True)])
def test_a_tensor_is_dropped_from_a_hundred_numbers_on(count: int, dropped: bool, small_model: SmallModel) -> None:
    model = small_model(0.0)
    model.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(np.ones(count, np.float32), "head.bias"))
    assert ("head.bias" in read_recipes(skeleton_from_onnx(model))[1]) is dropped


def test_whole_numbers_are_kept_however_many_they_are(small_model: SmallModel) -> None:
    model = small_model(0.0)
    table = onnx.numpy_helper.from_array(np.arange(5000, dtype=np.int64), "table")
    model.graph.initializer.append(table)
    assert skeleton_from_onnx(model).graph.initializer[-1] == table


def test_a_skeleton_says_nothing_of_where_it_was_made_and_is_the_same_every_time(small_model: SmallModel) -> None:
    first = skeleton_from_onnx(small_model(0.0)).SerializeToString(deterministic=True)
    assert b"/home" not in first
    assert first == skeleton_from_onnx(small_model(0.0)).SerializeToString(deterministic=True)
    assert metadata(skeleton_from_onnx(small_model(0.0)))["backbench.model"] == "{}"


def test_a_skeleton_of_a_skeletons_model_has_one_set_of_recipes(small_model: SmallModel) -> None:
    model = small_model(0.0)
    model.metadata_props.append(onnx.StringStringEntryProto(key="backbench.skeleton", value="an older one"))
    skeleton = skeleton_from_onnx(model)
    assert [entry.key for entry in skeleton.metadata_props] == ["backbench.model", "backbench.skeleton"]
    assert json.loads(metadata(skeleton)["backbench.skeleton"])["schema"] == SCHEMA == "backbench.skeleton/2"


def test_the_model_that_is_given_stays_as_it_is(small_model: SmallModel) -> None:
    model = small_model(0.0)
    skeleton_from_onnx(model)
    assert model == small_model(0.0)


@pytest.mark.parametrize("poison", [-np.inf, np.inf, np.nan])
def test_a_tensor_with_numbers_that_are_not_finite_is_kept(poison: float, small_model: SmallModel) -> None:
    assert "head.bias" not in read_recipes(skeleton_from_onnx(small_model(poison)))[1]


def test_weights_in_another_file_are_refused(small_model: SmallModel) -> None:
    model = small_model(0.0)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(InvalidModel, match=r"the weights of 'conv\.weight' lie in another file"):
        skeleton_from_onnx(model)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 48), (1, 16, 16), (3, 80, 64), (2, 47, 250)])
def test_a_skeleton_becomes_the_model_of_any_size(
    batch: int, height: int, width: int, token_skeleton: onnx.ModelProto, token_model: TokenModel, tmp_path: Path,
    outputs: Outputs,
) -> None:  # fmt: skip
    path = saved(token_skeleton, tmp_path / "s.onnx")
    materialise(path, tmp_path / "m.onnx", batch=batch, height=height, width=width)
    made, wanted = onnx.load(tmp_path / "m.onnx"), token_model(batch, height, width)
    assert made.graph.node == wanted.graph.node
    for have, want in zip(made.graph.initializer, wanted.graph.initializer, strict=True):
        assert (have.name, have.data_type, list(have.dims)) == (want.name, want.data_type, list(want.dims))
        if have.data_type == onnx.TensorProto.INT64:
            assert onnx.numpy_helper.to_array(have).tolist() == onnx.numpy_helper.to_array(want).tolist()
    assert outputs(tmp_path / "m.onnx", image(batch, height, width))[0].shape == (batch, 100)


def test_tensors_whose_shape_depends_on_the_size_are_dropped_however_small(token_skeleton: onnx.ModelProto) -> None:
    _, recipes, sizes = read_recipes(token_skeleton)
    assert {name: recipe.kind for name, recipe in recipes.items()} == {
        "patch.weight": "weight",
        "position": "offset",
        "table": "index",
        "head.weight": "weight",
    }
    assert recipes["table"] == TensorRecipe("index", 6)
    assert sizes.tensors() == {"position", "table"}


def test_weights_that_do_not_depend_on_the_size_are_the_same_at_every_size(
    token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    path = saved(token_skeleton, tmp_path / "s.onnx")
    for side in (32, 64):
        materialise(path, tmp_path / f"{side}.onnx", batch=1, height=side, width=side)
    first, second = (onnx.load(tmp_path / f"{side}.onnx").graph.initializer for side in (32, 64))
    assert [(a.name, a.raw_data == b.raw_data) for a, b in zip(first, second, strict=True)] == [
        ("patch.weight", True), ("shape", False), ("position", False), ("table", False), ("axes", True),
        ("head.weight", True),
    ]  # fmt: skip


@pytest.mark.parametrize("fill", [np.nan, -np.inf])
def test_a_tensor_that_can_neither_be_made_anew_nor_keep_its_shape_is_refused(
    fill: float, token_model: TokenModel, token_sizes: SizedNumbers
) -> None:
    model = token_model(1, 32, 48)
    numbers = np.full((1, 6, 24), fill, np.float32)
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(numbers, "position"))
    with pytest.raises(InvalidModel, match="the shape of 'position' depends on the size") as error:
        skeleton_from_onnx(model, sizes=token_sizes)
    assert "\n" not in str(error.value)


def test_whole_numbers_of_another_batch_begin_again_where_the_table_ends(
    token_model: TokenModel, token_sizes: SizedNumbers, tmp_path: Path
) -> None:
    sizes = sizes_from_json({"n*h16*w16": [["dim", "table", 0]], "w16": [["bound", "table", 0]]})
    skeleton = skeleton_from_onnx(token_model(1, 32, 48), sizes=SizedNumbers({**token_sizes.places, **sizes.places}))
    materialise(saved(skeleton, tmp_path / "s.onnx"), tmp_path / "m.onnx", batch=2, height=32, width=48)
    tables = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert tables["table"].tolist() == [0, 1, 2] * 4


def test_dropped_biases_come_back_small_and_none_is_zero(
    small_model: SmallModel, tmp_path: Path, outputs: Outputs
) -> None:
    path = saved(skeleton_from_onnx(small_model(0.0)), tmp_path / "s.onnx")
    materialise(path, tmp_path / "m.onnx", batch=3, height=16, width=20)
    model = onnx.load(tmp_path / "m.onnx")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    bias = np.abs(values["head.bias"])
    assert (bias > SMALLEST_NORMAL).all()
    assert bias.max() < 0.02
    assert values["scale"].min() >= 0.5
    assert values["scale"].max() <= 1.5
    assert values["head.weight"].std() == pytest.approx(1.0, rel=0.05)
    assert outputs(tmp_path / "m.onnx", image(3, 16, 20))[0].shape == (3, 500)


def test_another_seed_gives_other_weights(small_model: SmallModel, tmp_path: Path) -> None:
    for seed in (0, 1):
        path = saved(skeleton_from_onnx(small_model(0.0), seed=seed), tmp_path / f"s{seed}.onnx")
        materialise(path, tmp_path / f"{seed}.onnx", batch=1, height=16, width=16)
    first, second = (onnx.load(tmp_path / f"{seed}.onnx").graph.initializer[0] for seed in (0, 1))
    assert first.name == second.name == "conv.weight"
    assert first.raw_data != second.raw_data


@pytest.mark.parametrize(("batch", "height", "width"), [(0, 16, 16), (1, 16, 0), (1, 32, 16), (1, -1, 16)])
def test_a_size_that_the_skeleton_does_not_take_is_refused(
    batch: int, height: int, width: int, small_model: SmallModel, tmp_path: Path
) -> None:
    path = saved(skeleton_from_onnx(small_model(0.0)), tmp_path / "s.onnx")
    with pytest.raises(ShapeMismatch, match="the model takes nx3x16xw") as error:
        materialise(path, tmp_path / "m.onnx", batch=batch, height=height, width=width)
    assert "\n" not in str(error.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.onnx"]


def test_a_whole_model_is_no_skeleton(mobilenet: Path, tmp_path: Path) -> None:
    assert not is_skeleton(mobilenet)
    with pytest.raises(InvalidModel, match="not a skeleton"):
        materialise(mobilenet, tmp_path / "m.onnx", batch=1, height=224, width=224)


def test_a_full_disk_is_reported_and_leaves_nothing_behind(
    small_model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    source = saved(skeleton_from_onnx(small_model(0.0)), tmp_path / "s.onnx")
    with pytest.raises(DiskFull, match="the disk is full; free some room"):
        materialise(source, tmp_path / "m.onnx", batch=1, height=16, width=16)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.onnx"]


def test_a_folder_that_is_not_there_is_reported(small_model: SmallModel, tmp_path: Path) -> None:
    source = saved(skeleton_from_onnx(small_model(0.0)), tmp_path / "s.onnx")
    with pytest.raises(StoreUnusable, match="No such file or directory"):
        materialise(source, tmp_path / "no" / "m.onnx", batch=1, height=16, width=16)
