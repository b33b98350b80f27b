"""Skeletons: making them, telling them apart, and the models they become."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from numpy.typing import NDArray

from backbench.domain.errors import DiskFull, InvalidModel, ShapeMismatch, StoreUnusable
from backbench.models.calibration import calibrated
from backbench.models.catalog import names, skeleton_path
from backbench.models.onnx_input import inspect_input, metadata
from backbench.models.random_weights import KINDS, Kind, TensorRecipe, random_chunks
from backbench.models.skeleton import is_skeleton, materialise, read_recipes, skeleton_from_onnx

SMALLEST_NORMAL = np.finfo(np.float32).tiny
SIZES = {"mobilenetv3_large_100": [(1, 224, 224), (2, 225, 161)], "resnet50": [(1, 224, 224), (2, 96, 129)]}
DIGESTS: dict[Kind, str] = {"weight": "d151f205e6058c54", "offset": "f1c774717a5ea8c9", "scale": "8db6a1ed30ff873c"}


Outputs = Callable[[onnx.ModelProto | Path, NDArray[np.float32]], list[NDArray[Any]]]


def image(batch: int, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((batch, 3, height, width), dtype=np.float32)


def small_model(*, poison: float = 0.0) -> onnx.ModelProto:
    """A convolution, a scale, an offset and a matrix product, each with more than 256 numbers or with fewer."""
    rng = np.random.default_rng(1)
    tensors = {
        "conv.weight": rng.standard_normal((64, 3, 3, 3)) * 0.2,
        "conv.bias": np.zeros(64),
        "scale": np.ones((1, 64, 16, 1)),
        "offset": np.zeros((1, 64, 16, 1)),
        "head.weight": rng.standard_normal((64, 500)),
        "head.bias": np.full(500, poison),
    }
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["image", "conv.weight", "conv.bias"], ["a"], pads=[1, 1, 1, 1], doc_string="/home/me/x.py"),
            node("Mul", ["a", "scale"], ["b"]),
            node("Add", ["b", "offset"], ["c"]),
            node("GlobalAveragePool", ["c"], ["d"]),
            node("Flatten", ["d"], ["e"]),
            node("Gemm", ["e", "head.weight", "head.bias"], ["logits"]),
        ],
        "small",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 16, "w"])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 500])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
        doc_string="made in /home/me",
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    model.metadata_props.append(onnx.StringStringEntryProto(key="trace", value="/home/me"))
    model.metadata_props.append(onnx.StringStringEntryProto(key="backbench.model", value="{}"))
    model.graph.node[0].metadata_props.append(onnx.StringStringEntryProto(key="stack", value="/home/me/y.py"))
    return model


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in SIZES for size in SIZES[name]])
def test_no_activation_of_a_materialised_skeleton_is_infinite_nan_or_denormal(
    name: str, size: tuple[int, int, int], tmp_path: Path, outputs: Outputs
) -> None:
    batch, height, width = size
    path = tmp_path / "model.onnx"
    materialise(skeleton_path(name), path, batch=batch, height=height, width=width)
    model = onnx.load(path)
    known = {output.name for output in model.graph.output}
    between = [output for node in model.graph.node for output in node.output if output not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in between)
    results = outputs(model, image(batch, height, width))
    assert results[0].shape == (batch, 1000)
    assert results[0].std() > 0.1
    for output, values in zip([*known, *between], results, strict=True):
        magnitude = np.abs(values)
        assert np.isfinite(values).all(), output
        assert not ((magnitude > 0) & (magnitude < SMALLEST_NORMAL)).any(), output
        assert magnitude.max() < 100, output
        assert np.ptp(values) > 0, output


@pytest.mark.parametrize("name", names())
def test_every_shipped_skeleton_is_small_and_names_no_path(name: str) -> None:
    data = skeleton_path(name).read_bytes()
    assert len(data) < 100_000
    for trace in (b"site-packages", b".py", b"/home", b"/work", b"stack_trace"):
        assert trace not in data


def test_a_materialised_model_is_sound_fixed_in_size_and_no_skeleton(mobilenet: Path) -> None:
    onnx.checker.check_model(str(mobilenet), full_check=True)
    contract = inspect_input(mobilenet)
    assert (contract.dims, contract.outputs[0].dims) == ((1, 3, 224, 224), (1, 1000))
    assert set(metadata(onnx.load(mobilenet))) == {"backbench.preprocess", "backbench.model"}
    assert not is_skeleton(mobilenet)


def test_materialising_twice_gives_the_same_bytes(mobilenet: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    materialise(skeleton_path("mobilenetv3_large_100"), again, batch=1, height=224, width=224)
    assert again.read_bytes() == mobilenet.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_the_same_on_every_platform_and_with_every_numpy(kind: Kind) -> None:
    recipe = TensorRecipe(kind, 1.414, 27 if kind == "weight" else 1)
    chunks = random_chunks(recipe, "conv.weight", 7, (1 << 20) + 5, np.dtype(np.float32))
    assert hashlib.sha256(b"".join(chunks)).hexdigest()[:16] == DIGESTS[kind]


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


def test_a_skeleton_keeps_small_tensors_and_drops_large_ones() -> None:
    skeleton = skeleton_from_onnx(small_model())
    seed, recipes = read_recipes(skeleton)
    assert seed == 0
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


def test_a_skeleton_says_nothing_of_where_it_was_made_and_is_the_same_every_time() -> None:
    first = skeleton_from_onnx(small_model()).SerializeToString(deterministic=True)
    assert b"/home" not in first
    assert first == skeleton_from_onnx(small_model()).SerializeToString(deterministic=True)
    assert metadata(skeleton_from_onnx(small_model()))["backbench.model"] == "{}"


def test_a_tensor_with_infinite_numbers_is_kept() -> None:
    skeleton = skeleton_from_onnx(small_model(poison=-np.inf))
    assert "head.bias" not in read_recipes(skeleton)[1]


def test_dropped_biases_come_back_small_and_none_is_zero(tmp_path: Path, outputs: Outputs) -> None:
    path = saved(skeleton_from_onnx(small_model()), tmp_path / "s.onnx")
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


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    for seed in (0, 1):
        path = saved(skeleton_from_onnx(small_model(), seed=seed), tmp_path / f"s{seed}.onnx")
        materialise(path, tmp_path / f"{seed}.onnx", batch=1, height=16, width=16)
    first, second = (onnx.load(tmp_path / f"{seed}.onnx").graph.initializer[0] for seed in (0, 1))
    assert first.name == second.name == "conv.weight"
    assert first.raw_data != second.raw_data


def test_calibration_brings_every_product_to_a_root_mean_square_of_one(tmp_path: Path, outputs: Outputs) -> None:
    path = saved(calibrated(skeleton_from_onnx(small_model()), size=16), tmp_path / "s.onnx")
    materialise(path, tmp_path / "m.onnx", batch=1, height=16, width=64)
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.output.append(onnx.ValueInfoProto(name="a"))
    logits, first = outputs(model, image(1, 16, 64))
    assert float(np.sqrt(np.mean(first**2))) == pytest.approx(1.0, rel=0.1)
    assert 0.3 < float(np.sqrt(np.mean(logits**2))) < 3


@pytest.mark.parametrize(("batch", "height", "width"), [(0, 16, 16), (1, 16, 0), (1, 32, 16), (1, -1, 16)])
def test_a_size_that_the_skeleton_does_not_take_is_refused(batch: int, height: int, width: int, tmp_path: Path) -> None:
    path = saved(skeleton_from_onnx(small_model()), tmp_path / "s.onnx")
    with pytest.raises(ShapeMismatch, match="the model takes nx3x16xw") as error:
        materialise(path, tmp_path / "m.onnx", batch=batch, height=height, width=width)
    assert "\n" not in str(error.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.onnx"]


def test_a_whole_model_is_no_skeleton(mobilenet: Path, tmp_path: Path) -> None:
    assert not is_skeleton(mobilenet)
    with pytest.raises(InvalidModel, match="not a skeleton"):
        materialise(mobilenet, tmp_path / "m.onnx", batch=1, height=224, width=224)


@pytest.mark.parametrize("step", range(1, 20))
def test_a_truncated_skeleton_is_refused_wherever_it_was_cut(step: int, tmp_path: Path) -> None:
    data = skeleton_path("resnet50").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: len(data) * step // 20])
    assert not is_skeleton(path)
    with pytest.raises(InvalidModel):
        materialise(path, tmp_path / "m.onnx", batch=1, height=224, width=224)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"\xff\xd8\xff\xe0" * 50, b"hello world", bytes(range(256))])
def test_garbage_is_no_skeleton(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(data)
    assert not is_skeleton(path)
    with pytest.raises(InvalidModel, match=r"garbage\.onnx: "):
        materialise(path, tmp_path / "m.onnx", batch=1, height=224, width=224)


def test_a_skeleton_whose_recipes_do_not_fit_its_tensors_is_refused(tmp_path: Path) -> None:
    skeleton = skeleton_from_onnx(small_model())
    skeleton.metadata_props[-1].value = skeleton.metadata_props[-1].value.replace('"scale"', '"scaly"', 1)
    path = saved(skeleton, tmp_path / "s.onnx")
    with pytest.raises(InvalidModel, match="damaged"):
        materialise(path, tmp_path / "m.onnx", batch=1, height=16, width=16)


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    source = saved(skeleton_from_onnx(small_model()), tmp_path / "s.onnx")
    with pytest.raises(DiskFull, match="the disk is full; free some room"):
        materialise(source, tmp_path / "m.onnx", batch=1, height=16, width=16)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.onnx"]


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    source = saved(skeleton_from_onnx(small_model()), tmp_path / "s.onnx")
    with pytest.raises(StoreUnusable, match="No such file or directory"):
        materialise(source, tmp_path / "no" / "m.onnx", batch=1, height=16, width=16)
