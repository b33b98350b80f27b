"""Skeletons that are cut short, damaged or made to do harm: one line each, nothing left behind, memory bounded."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from backbench.domain.errors import BackbenchError, InvalidModel, ShapeMismatch
from backbench.models.catalog import skeleton_path
from backbench.models.graph import shaped_graph
from backbench.models.onnx_input import metadata
from backbench.models.skeleton import is_skeleton, materialise

KEY = "backbench.skeleton"
Json = dict[str, Any]


def refusal(
    skeleton: onnx.ModelProto | bytes,
    folder: Path,
    kind: type[BackbenchError] = InvalidModel,
    size: tuple[int, int, int] = (2, 64, 80),
) -> str:
    """The text with which a skeleton is refused at a size: one short line, with nothing left in the folder."""
    path = folder / "s.onnx"
    path.write_bytes(skeleton if isinstance(skeleton, bytes) else skeleton.SerializeToString())
    tracemalloc.start()
    try:
        with pytest.raises(kind) as error:
            materialise(path, folder / "m.onnx", batch=size[0], height=size[1], width=size[2])
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert [entry.name for entry in folder.iterdir()] == ["s.onnx"]
    text = str(error.value)
    assert text.startswith((f"{path}: ", "m.onnx: "))
    assert "\n" not in text
    assert len(text) < len(str(path)) + 300
    return text


def settings(skeleton: onnx.ModelProto) -> Json:
    values: Json = json.loads(metadata(skeleton)[KEY])
    return values


def with_settings(skeleton: onnx.ModelProto, text: str) -> onnx.ModelProto:
    skeleton.metadata_props[-1].value = text
    return skeleton


def with_sizes(skeleton: onnx.ModelProto, sizes: Any) -> onnx.ModelProto:
    return with_settings(skeleton, json.dumps({**settings(skeleton), "sizes": sizes}))


def with_recipe(skeleton: onnx.ModelProto, name: str, recipe: Any) -> onnx.ModelProto:
    values = settings(skeleton)
    return with_settings(skeleton, json.dumps({**values, "tensors": {**values["tensors"], name: recipe}}))


def tensor(skeleton: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(each for each in skeleton.graph.initializer if each.name == name)


def test_the_skeleton_that_is_damaged_here_is_sound(token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "s.onnx").write_bytes(token_skeleton.SerializeToString())
    materialise(tmp_path / "s.onnx", tmp_path / "m.onnx", batch=2, height=64, width=80)
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


@pytest.mark.parametrize("name", ["resnet50", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("step", range(1, 20))
def test_a_truncated_skeleton_is_refused_wherever_it_was_cut(name: str, step: int, tmp_path: Path) -> None:
    data = skeleton_path(name).read_bytes()
    cut = data[: len(data) * step // 20]
    refusal(cut, tmp_path)
    assert not is_skeleton(tmp_path / "s.onnx")


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"\xff\xd8\xff\xe0" * 50, b"hello world", bytes(range(256))])
def test_garbage_is_no_skeleton(data: bytes, tmp_path: Path) -> None:
    assert "s.onnx: " in refusal(data, tmp_path)
    assert not is_skeleton(tmp_path / "s.onnx")


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", "7", '"text"', "{", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000,
     '{"schema":"backbench.skeleton/1","seed":0,"tensors":{}}', '{"schema":"backbench.skeleton/2\\n\\n","seed":0}'],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_settings_that_are_none_are_refused(text: str, token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    assert "the skeleton is damaged" in refusal(with_settings(token_skeleton, text), tmp_path)


@pytest.mark.parametrize("seed", ['"x"', "null", "1e999", "NaN", "[]", "9" * 5000], ids=lambda text: text[:9])
def test_a_seed_that_is_no_number_is_refused(seed: str, token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    text = metadata(token_skeleton)[KEY].replace('"seed":0', f'"seed":{seed}')
    assert "the skeleton is damaged" in refusal(with_settings(token_skeleton, text), tmp_path)


@pytest.mark.parametrize(
    "sizes",
    [
        None, 7, "n", [], [["element", "shape", 0]], {"n": None}, {"n": 7}, {"n": [7]}, {"n": [[]]}, {"n": "element"},
        {"n": {"element": 1}}, {"n": [["element", "shape"]]}, {"n": [["element", "shape", 0, 0]]},
        {"n": [["element", ["shape"], 0]]}, {"n": [["element", "shape", 0.5]]}, {"n": [["colour", "shape", 0]]},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_that_are_none_are_refused(sizes: Any, token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    assert "the skeleton is damaged" in refusal(with_sizes(token_skeleton, sizes), tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        ["element", "none", 0], ["dim", "none", 0], ["bound", "none", 0], ["element", "none\nsuch", 0],
        ["element", "x" * 100_000, 0],
        ["element", "shape", 3], ["element", "shape", -1], ["element", "shape", 1 << 70],
        ["element", "position", 0], ["element", "patch.weight", 0], ["element", "table", 0],
        ["dim", "shape", 0], ["dim", "axes", 0], ["dim", "position", 3], ["dim", "position", -2],
        ["bound", "position", 0], ["bound", "shape", 0],
        ["attribute", 10, "kernel_shape", 0], ["attribute", -4, "kernel_shape", 0], ["attribute", 6, "none", 0],
        ["attribute", 5, "kernel_shape", 0], ["attribute", 6, "kernel_shape", 2], ["attribute", 6, "kernel_shape", -1],
        ["attribute", 4, "axis", 0], ["attribute", 1 << 70, "kernel_shape", 0],
    ],
    ids=lambda place: str(place)[:40],
)  # fmt: skip
def test_a_place_that_the_skeleton_does_not_have_is_refused(
    place: list[Any], token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    assert "the skeleton is damaged" in refusal(with_sizes(token_skeleton, {"h16": [place]}), tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "h", "h0", "h16^9", "2**64", "-5", "1", "1099511627776", "h16*99999999999", "n\n", "*".join(["n"] * 500_000),
     "+".join(["n"] * 500_000), "h٤"],
    ids=lambda text: text[:20],
)  # fmt: skip
@pytest.mark.parametrize(
    "place", [["dim", "position", 1], ["element", "shape", 0], ["attribute", 6, "kernel_shape", 0]]
)
def test_an_expression_that_is_none_is_refused(
    text: str, place: list[Any], token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    assert "the skeleton is damaged" in refusal(with_sizes(token_skeleton, {text: [place]}), tmp_path)


@pytest.mark.parametrize("text", ["h128", "h16+-9", "h16*999999999*999999999", "-1*n"])
@pytest.mark.parametrize("place", [["dim", "position", 1], ["bound", "table", 0]])
def test_a_length_that_is_none_at_a_size_is_refused_as_a_size(
    text: str, place: list[Any], token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    skeleton = with_sizes(token_skeleton, {text: [place]})
    assert "the graph does not work at 64x80, batch 2" in refusal(skeleton, tmp_path, ShapeMismatch)


def test_a_skeleton_of_more_numbers_than_any_memory_holds_is_refused_before_one_is_made(
    token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    token_skeleton.graph.initializer.append(
        onnx.TensorProto(name="spare", data_type=onnx.TensorProto.FLOAT, dims=[1, 1000])
    )
    skeleton = with_recipe(token_skeleton, "spare", {"kind": "offset", "gain": 1.0})
    skeleton = with_sizes(skeleton, {**settings(skeleton)["sizes"], "999999999*n": [["dim", "spare", 0]]})
    text = refusal(skeleton, tmp_path)
    assert "takes 8000.0 GB; one file holds up to 1.8 GB" in text
    tracemalloc.start()
    try:
        graph = shaped_graph(tmp_path / "s.onnx", batch=2, height=64, width=80)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert math.prod(tensor(graph, "spare").dims) > 1 << 40


def test_a_model_that_is_too_large_at_a_size_is_refused_at_that_size_only(
    token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    (tmp_path / "s.onnx").write_bytes(token_skeleton.SerializeToString())
    with pytest.raises(InvalidModel, match=r"takes 2\.\d GB; one file holds up to 1\.8 GB"):
        materialise(tmp_path / "s.onnx", tmp_path / "m.onnx", batch=1, height=80_000, width=72_000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.onnx"]


@pytest.mark.parametrize(
    "recipe",
    [
        None, 7, [], {}, {"kind": "weight"}, {"gain": 1.0}, {"kind": "colour", "gain": 1.0},
        {"kind": ["weight"], "gain": 1.0}, {"kind": "weight", "gain": 0}, {"kind": "weight", "gain": float("nan")},
        {"kind": "weight", "gain": float("inf")}, {"kind": "weight", "gain": 1e300}, {"kind": "weight", "gain": 1e-40},
        {"kind": "weight", "gain": 10**400}, {"kind": "weight", "gain": "x\ny"},
        {"kind": "weight", "gain": 1.0, "fan_in": 0}, {"kind": "weight", "gain": 1.0, "fan_in": float("inf")},
        {"kind": "integer", "gain": 5}, {"kind": "index", "gain": 5}, {"kind": "x" * 100_000, "gain": 1.0},
    ],
    ids=lambda recipe: str(recipe)[:40],
)  # fmt: skip
def test_a_recipe_that_is_none_for_a_weight_is_refused(
    recipe: Any, token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    assert "the skeleton is damaged" in refusal(with_recipe(token_skeleton, "head.weight", recipe), tmp_path)


@pytest.mark.parametrize("kind", ["weight", "offset", "integer"])
def test_a_recipe_for_another_type_of_numbers_is_refused(
    kind: str, token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    assert "another type" in refusal(with_recipe(token_skeleton, "table", {"kind": kind, "gain": 5}), tmp_path)


@pytest.mark.parametrize("gain", [0, -3, 0.5, 2.5, 1e300, 1e12])
def test_a_table_with_no_such_number_of_rows_is_refused(
    gain: float, token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    assert "damaged" in refusal(with_recipe(token_skeleton, "table", {"kind": "index", "gain": gain}), tmp_path)


@pytest.mark.parametrize("name", ["scaly", "axes", "x\n" * 1000])
def test_recipes_that_do_not_fit_the_tensors_are_refused(
    name: str, token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    skeleton = with_recipe(token_skeleton, name, {"kind": "offset", "gain": 1.0})
    assert f"tensors and recipes differ in {name!r}"[:80] in refusal(skeleton, tmp_path)


def test_a_tensor_that_has_neither_numbers_nor_a_recipe_is_refused(
    token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    tensor(token_skeleton, "shape").ClearField("raw_data")
    assert "tensors and recipes differ in 'shape'" in refusal(token_skeleton, tmp_path)


def test_numbers_that_were_kept_and_are_cut_short_are_refused(token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    kept = tensor(token_skeleton, "shape")
    kept.raw_data = kept.raw_data[:-1]
    assert "the numbers of 'shape' do not fill its shape" in refusal(token_skeleton, tmp_path)


@pytest.mark.parametrize("dims", [[-1, -24], [-24, 1], [1 << 62, 4], [1 << 40, 100]])
def test_a_shape_that_no_tensor_has_is_refused(
    dims: list[int], token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    del tensor(token_skeleton, "head.weight").dims[:]
    tensor(token_skeleton, "head.weight").dims.extend(dims)
    refusal(token_skeleton, tmp_path, BackbenchError)


@pytest.mark.parametrize("data_type", [0, onnx.TensorProto.STRING, onnx.TensorProto.BFLOAT16, 999])
def test_a_type_of_numbers_that_cannot_be_made_is_refused(
    data_type: int, token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    tensor(token_skeleton, "head.weight").data_type = data_type
    assert "another type of numbers" in refusal(token_skeleton, tmp_path)


def test_a_shape_that_is_itself_made_anew_is_refused(token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    values = settings(token_skeleton)
    tensor(token_skeleton, "shape").ClearField("raw_data")
    sizes = {"n": [["bound", "shape", 0]]}
    recipes = {**values["tensors"], "shape": {"kind": "index", "gain": 3}}
    text = json.dumps({**values, "tensors": recipes, "sizes": sizes})
    refusal(with_settings(token_skeleton, text), tmp_path, BackbenchError)


def test_names_with_line_breaks_do_not_break_the_line(token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    tensor(token_skeleton, "head.weight").name = "a\nb" * 1000
    refusal(token_skeleton, tmp_path)


@pytest.mark.parametrize("name", [b"head.weight", b"MatMul", b"kernel_shape", b"logits", b"tokens"])
def test_a_name_that_is_no_text_is_refused(name: bytes, token_skeleton: onnx.ModelProto, tmp_path: Path) -> None:
    data = token_skeleton.SerializeToString()
    assert name in data
    assert "a name is no text" in refusal(data.replace(name, b"\xff" + name[1:]), tmp_path)


@pytest.mark.parametrize("place", range(0, 4000, 97))
def test_a_flipped_byte_is_refused_or_harmless_and_never_a_crash(
    place: int, token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    data = bytearray(token_skeleton.SerializeToString())
    data[place % len(data)] ^= 1 << (place % 8)
    (tmp_path / "s.onnx").write_bytes(data)
    try:
        materialise(tmp_path / "s.onnx", tmp_path / "m.onnx", batch=1, height=32, width=32)
    except BackbenchError as error:
        assert "\n" not in str(error)
        assert not (tmp_path / "m.onnx").exists()


def test_a_table_with_a_constant_that_has_no_number_of_rows_stays_within_it(
    token_skeleton: onnx.ModelProto, tmp_path: Path
) -> None:
    sizes = {text: [p for p in places if p[0] != "bound"] for text, places in settings(token_skeleton)["sizes"].items()}
    (tmp_path / "s.onnx").write_bytes(with_sizes(token_skeleton, sizes).SerializeToString())
    materialise(tmp_path / "s.onnx", tmp_path / "m.onnx", batch=1, height=64, width=64)
    table = onnx.numpy_helper.to_array(tensor(onnx.load(tmp_path / "m.onnx"), "table"))
    assert table.tolist() == np.resize(np.arange(6), 16).tolist()
