"""Reference outputs: written, read back, compared; and files that somebody else made."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from backbench.domain.errors import InvalidArgument, InvalidModel, StoreUnusable
from backbench.domain.preprocess import Preprocess
from backbench.models import reference as module
from backbench.models.preprocessing import cropped_image, write_input
from backbench.models.reference import Reference, output_errors, read_reference, write_reference

RNG = np.random.Generator(np.random.PCG64(7))
FRAMES = RNG.integers(0, 256, (3, 20, 24, 3), np.uint8)
OUTPUTS = {
    "logits": RNG.standard_normal((3, 10)).astype(np.float32),
    "stage/4:0": RNG.standard_normal((3, 8, 50, 60)).astype(np.float32),
}
META: dict[str, Any] = {
    "schema": "backbench.reference/1",
    "size": [2, 2],
    "frame_count": 1,
    "outputs": [{"name": "y", "shape": [3], "step": 1}],
    "tolerance": 0.1,
    "made_by": "nobody",
    "precision": "fp32",
}


def written(path: Path, outputs: Mapping[str, NDArray[Any]] = OUTPUTS) -> Reference:
    write_reference(path, FRAMES, outputs, tolerance=0.01, made_by="torch 2.9", precision="fp32")
    return read_reference(path)


def forged(path: Path, description: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A file as somebody else might write it: sound but for `description` and `changes`."""
    text = np.frombuffer(json.dumps(META | (description or {})).encode(), np.uint8)
    arrays: dict[str, Any] = {"meta": text, "frames": np.zeros((1, 2, 2, 3), np.uint8)}
    arrays |= {"output_0": np.ones((1, 3), np.float32)} | changes
    kept: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    np.savez(path, **kept)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    reference = written(tmp_path / "reference.npz")
    assert (reference.frame_count, reference.height, reference.width) == (3, 20, 24)
    assert (reference.tolerance, reference.made_by, reference.precision) == (0.01, "torch 2.9", "fp32")
    assert np.array_equal(reference.frames, FRAMES)
    assert [(output.name, output.shape, output.step) for output in reference.outputs] == [
        ("logits", (10,), 1),
        ("stage/4:0", (8, 50, 60), 2),
    ]
    assert np.array_equal(reference.outputs[0].values, OUTPUTS["logits"])
    assert np.array_equal(reference.outputs[1].values, OUTPUTS["stage/4:0"].reshape(3, -1)[:, ::2])


def test_the_same_content_gives_the_same_bytes_and_nothing_beside_them(tmp_path: Path) -> None:
    written(tmp_path / "one.npz")
    written(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_the_file_opens_without_pickles(tmp_path: Path) -> None:
    written(tmp_path / "reference.npz")
    with np.load(tmp_path / "reference.npz", allow_pickle=False) as archive:
        assert archive.files == ["meta", "frames", "output_0", "output_1"]
        assert json.loads(archive["meta"].tobytes())["size"] == [20, 24]


def test_frames_are_normalised_to_the_bit_as_an_image_is(tmp_path: Path) -> None:
    preprocess = Preprocess(crop_ratio=0.9)
    image = Image.fromarray(RNG.integers(0, 256, (70, 90, 3), np.uint8))
    frame = np.asarray(cropped_image(image, preprocess, 32, 48))
    write_reference(
        tmp_path / "one.npz", frame[None], {"y": np.ones((1, 3))}, tolerance=0.1, made_by="x", precision="fp32"
    )
    expected = np.empty((1, 3, 32, 48), np.float32)
    write_input(image, expected, preprocess, 32, 48)
    assert np.array_equal(read_reference(tmp_path / "one.npz").normalised(preprocess), expected)


def test_equal_outputs_have_no_error(tmp_path: Path) -> None:
    errors = output_errors(written(tmp_path / "reference.npz"), OUTPUTS)
    assert [(error.name, error.max_relative_error, error.finite) for error in errors] == [
        ("logits", 0.0, True),
        ("stage/4:0", 0.0, True),
    ]
    assert all(error.within(1e-9) and error.cosine == pytest.approx(1) for error in errors)


def test_one_wrong_frame_counts_as_much_as_three(tmp_path: Path) -> None:
    reference = written(tmp_path / "reference.npz")
    wrong = OUTPUTS["logits"].copy()
    wrong[1] = -wrong[1]
    error = output_errors(reference, OUTPUTS | {"logits": wrong})[0]
    assert error.max_relative_error == pytest.approx(2)
    assert error.cosine == pytest.approx(-1)
    assert not error.within(reference.tolerance)


def test_sixteen_bit_outputs_are_compared_too(tmp_path: Path) -> None:
    reference = written(tmp_path / "reference.npz")
    error = output_errors(reference, {"logits": OUTPUTS["logits"].astype(np.float16)})[0]
    assert error.max_relative_error is not None
    assert 0 < error.max_relative_error < 1e-3


@pytest.mark.parametrize(
    "produced",
    [
        {},
        {"logits": OUTPUTS["logits"][:2]},
        {"logits": OUTPUTS["logits"][:, :9]},
        {"logits": OUTPUTS["logits"][:, :, None]},
        {"logits": np.where(OUTPUTS["logits"] == OUTPUTS["logits"].max(), np.nan, OUTPUTS["logits"])},
        {"logits": np.where(OUTPUTS["logits"] == OUTPUTS["logits"].max(), np.inf, OUTPUTS["logits"])},
    ],
)
def test_an_output_that_is_missing_misshapen_or_not_finite_has_no_error_and_never_passes(
    tmp_path: Path, produced: dict[str, NDArray[Any]]
) -> None:
    error = output_errors(written(tmp_path / "reference.npz"), produced)[0]
    assert (error.max_relative_error, error.cosine, error.finite) == (None, None, False)
    assert not error.within(float("inf"))


def test_a_nan_between_the_kept_numbers_is_seen(tmp_path: Path) -> None:
    produced = OUTPUTS["stage/4:0"].copy()
    produced.reshape(-1)[1] = np.nan
    assert not output_errors(written(tmp_path / "reference.npz"), {"stage/4:0": produced})[1].finite


def test_a_reference_of_zeros_takes_zeros_and_nothing_else(tmp_path: Path) -> None:
    reference = written(tmp_path / "reference.npz", {"y": np.zeros((3, 4), np.float32)})
    assert output_errors(reference, {"y": np.zeros((3, 4))})[0].within(0.01)
    assert not output_errors(reference, {"y": np.full((3, 4), 1e-3)})[0].within(0.01)


def test_a_reference_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="'logits' holds numbers that are not finite"):
        written(tmp_path / "reference.npz", {"logits": np.full((3, 10), np.nan)})
    assert not list(tmp_path.iterdir())


def test_a_reference_above_the_limit_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 4000)
    with pytest.raises(InvalidArgument, match="take fewer frames"):
        written(tmp_path / "reference.npz")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"nowhere.*cannot be written"):
        written(tmp_path / "nowhere" / "reference.npz")


def test_a_sound_file_from_elsewhere_is_read(tmp_path: Path) -> None:
    assert read_reference(forged(tmp_path / "x.npz")).outputs[0].name == "y"


@pytest.mark.parametrize(
    ("description", "changes"),
    [
        ({"schema": "backbench.reference/9"}, {}),
        ({"size": [2, 3]}, {}),
        ({"size": [2]}, {}),
        ({"size": [2.0, 2.0]}, {}),
        ({"size": [10**9, 10**9]}, {}),
        ({"frame_count": 2}, {}),
        ({"frame_count": 0}, {}),
        ({"frame_count": True}, {}),
        ({"tolerance": 0}, {}),
        ({"tolerance": float("nan")}, {}),
        ({"tolerance": "all"}, {}),
        ({"tolerance": 10**400}, {}),
        ({"outputs": []}, {}),
        ({"outputs": {}}, {}),
        ({"outputs": [{"name": "y", "shape": [3], "step": 0}]}, {}),
        ({"outputs": [{"name": "y", "shape": [-3], "step": -1}]}, {}),
        ({"outputs": [{"name": "y", "shape": [4], "step": 1}]}, {}),
        ({"outputs": [{"name": ["y"], "shape": [3], "step": 1}]}, {}),
        ({"outputs": [{"name": "y", "shape": "3", "step": 1}]}, {}),
        ({"outputs": META["outputs"] * 2}, {"output_1": np.ones((1, 3), np.float32)}),
        ({}, {"output_1": np.ones((1, 3), np.float32)}),
        ({}, {"output_0": None}),
        ({}, {"frames": None}),
        ({}, {"meta": None}),
        ({}, {"meta": np.frombuffer(b"{not json", np.uint8)}),
        ({}, {"meta": np.frombuffer(b"[" * 100_000, np.uint8)}),
        ({}, {"meta": np.frombuffer(b"[1]", np.uint8)}),
        ({}, {"frames": np.zeros((1, 2, 2, 3), np.float32)}),
        ({}, {"frames": np.zeros((1, 2, 2, 4), np.uint8)}),
        ({}, {"output_0": np.ones((1, 3), np.float64)}),
        ({}, {"output_0": np.ones((1, 3), ">f4")}),
        ({}, {"output_0": np.full((1, 3), np.nan, np.float32)}),
        ({}, {"output_0": np.asfortranarray(np.ones((2, 3), np.float32))}),
        ({}, {"output_0": np.array([{"an": "object"}])}),
        ({}, {"output_0": np.zeros((0, 3), np.float32)}),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_in_one_line(
    tmp_path: Path, description: dict[str, Any], changes: dict[str, Any]
) -> None:
    path = forged(tmp_path / "x.npz", description, **changes)
    with pytest.raises(InvalidModel, match="no usable reference outputs") as error:
        read_reference(path)
    assert "\n" not in str(error.value)


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, meta=np.zeros(1, np.uint8), frames=np.zeros(50_000_000, np.uint8))
    assert path.stat().st_size < 100_000
    with pytest.raises(InvalidModel, match="a part is compressed"):
        read_reference(path)


def with_sizes(data: bytes, size: int) -> bytes:
    """A zip file's bytes, the last part's sizes in the central directory replaced."""
    place = data.rindex(b"PK\x01\x02")
    return data[: place + 20] + size.to_bytes(4, "little") * 2 + data[place + 28 :]


@pytest.mark.parametrize("size", [4_000_000_000, 200_000_000])
def test_a_part_that_claims_to_be_huge_is_refused(tmp_path: Path, size: int) -> None:
    path = forged(tmp_path / "x.npz")
    path.write_bytes(with_sizes(path.read_bytes(), size))
    with pytest.raises(InvalidModel, match="no usable reference outputs"):
        read_reference(path)


def test_an_array_whose_header_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.npy", header.getvalue() + b"{}")
    with pytest.raises(InvalidModel, match="has 2 bytes"):
        read_reference(path)


def test_a_file_above_the_limit_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "reference.npz")
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(InvalidModel, match="the file is larger than"):
        read_reference(tmp_path / "reference.npz")


def test_too_many_parts_are_refused(tmp_path: Path) -> None:
    more: dict[str, Any] = {f"more_{index}": np.zeros(1, np.uint8) for index in range(80)}
    path = forged(tmp_path / "x.npz", {}, **more)
    with pytest.raises(InvalidModel, match="too many parts"):
        read_reference(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" * 50])
def test_bytes_that_are_no_reference_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InvalidModel):
        read_reference(tmp_path / "x.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"none\.npz: cannot be read"):
        read_reference(tmp_path / "none.npz")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forged(tmp_path_factory.mktemp("sound") / "x.npz")


@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 10**6) | st.none())
def test_a_damaged_file_is_refused_or_read_but_nothing_else(
    sound: Path, place: int, value: int, cut: int | None
) -> None:
    data = bytearray(sound.read_bytes())
    data[place % len(data)] = value
    damaged = sound.with_name("damaged.npz")
    damaged.write_bytes(data if cut is None else data[: cut % len(data)])
    try:
        reference = read_reference(damaged)
    except InvalidModel as error:
        assert "\n" not in str(error)
    else:
        assert reference.frames.shape == (1, 2, 2, 3)


def test_an_error_is_compared_with_the_tolerance_itself(tmp_path: Path) -> None:
    error = output_errors(written(tmp_path / "reference.npz"), OUTPUTS)[0]
    assert replace(error, max_relative_error=0.5).within(0.5)
    assert not replace(error, max_relative_error=0.51).within(0.5)
