"""Making reference outputs from a model, and finding the model right by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as onh
import onnxruntime as ort
import pytest

from backbench.controller.export.calibration import shipped_photographs
from backbench.controller.export.reference_outputs import reference_frames, reference_from_model
from backbench.domain.errors import InvalidImage, InvalidModel
from backbench.domain.preprocess import IMAGENET_DEFAULT, Preprocess
from backbench.models.preprocessing import decode_image, write_input
from backbench.models.reference import TOLERANCES, output_errors, read_reference


def pyramid(folder: Path, batch: int | str = 1, gain: float = 1.0) -> Path:
    """Two outputs: a feature map and logits."""
    rng = np.random.Generator(np.random.PCG64(5))
    graph = oh.make_graph(
        [
            oh.make_node("Conv", ["image", "w"], ["level"], strides=[2, 2], pads=[1] * 4),
            oh.make_node("GlobalAveragePool", ["level"], ["pooled"]),
            oh.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        "pyramid",
        [oh.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 3, 64, 96])],
        [
            oh.make_tensor_value_info("level", onnx.TensorProto.FLOAT, [batch, 16, 32, 48]),
            oh.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 16]),
        ],
        [onh.from_array((rng.standard_normal((16, 3, 3, 3)) * gain).astype(np.float32), "w")],
    )
    path = folder / f"{batch}-{gain}.onnx"
    path.write_bytes(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=9).SerializeToString())
    return path


def test_frames_are_the_shipped_photographs_of_the_models_size() -> None:
    frames = reference_frames(None, IMAGENET_DEFAULT, 64, 96)
    assert (frames.shape, frames.dtype.name) == ((3, 64, 96, 3), "uint8")
    assert len({frame.tobytes() for frame in frames}) == 3
    assert np.array_equal(frames, reference_frames(shipped_photographs(), IMAGENET_DEFAULT, 64, 96))


def test_fewer_images_give_fewer_frames() -> None:
    assert len(reference_frames(shipped_photographs()[:2], IMAGENET_DEFAULT, 32, 32)) == 2


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match=r"gone\.jpg"):
        reference_frames([tmp_path / "gone.jpg"], IMAGENET_DEFAULT, 32, 32)


@pytest.mark.parametrize("batch", [1, 4, "batch"])
def test_a_model_agrees_with_its_own_reference(batch: int | str, tmp_path: Path) -> None:
    model, preprocess = pyramid(tmp_path, batch), Preprocess(crop_ratio=0.9)
    frames = reference_frames(None, preprocess, 64, 96)
    reference_from_model(model, frames, preprocess, tmp_path / "reference.npz")
    reference = read_reference(tmp_path / "reference.npz")
    assert [(output.name, output.shape, output.step) for output in reference.outputs] == [
        ("level", (16, 32, 48), 2),
        ("logits", (16,), 1),
    ]
    assert reference.tolerance == TOLERANCES["fp32"]
    assert reference.made_by == f"onnxruntime {ort.__version__} CPU"
    session = ort.InferenceSession(str(pyramid(tmp_path)), providers=["CPUExecutionProvider"])
    results = [session.run(None, {"image": frame[None]}) for frame in reference.normalised(preprocess)]
    level, logits = (np.concatenate([result[index] for result in results]) for index in range(2))
    errors = output_errors(reference, {"level": level, "logits": logits})
    assert all(error.within(1e-5) for error in errors)


def test_another_model_does_not_agree(tmp_path: Path) -> None:
    frames = reference_frames(None, IMAGENET_DEFAULT, 64, 96)
    reference_from_model(pyramid(tmp_path), frames, IMAGENET_DEFAULT, tmp_path / "a.npz")
    reference_from_model(pyramid(tmp_path, gain=-1.5), frames, IMAGENET_DEFAULT, tmp_path / "b.npz")
    wrong = {output.name: output.values for output in read_reference(tmp_path / "b.npz").outputs}
    error = output_errors(read_reference(tmp_path / "a.npz"), {"logits": wrong["logits"]})[1]
    assert error.max_relative_error == pytest.approx(2.5, rel=1e-3)
    assert not error.within(TOLERANCES["int8"])


def test_the_maker_the_tolerance_and_the_precision_can_be_stated(tmp_path: Path) -> None:
    frames = reference_frames(None, IMAGENET_DEFAULT, 64, 96, count=1)
    target = tmp_path / "reference.npz"
    reference_from_model(
        pyramid(tmp_path), frames, IMAGENET_DEFAULT, target, precision="int8", tolerance=0.125, made_by="torch 2.13"
    )
    reference = read_reference(target)
    assert (reference.tolerance, reference.made_by, reference.precision) == (0.125, "torch 2.13", "int8")


def test_the_same_model_and_frames_give_the_same_bytes(tmp_path: Path) -> None:
    frames = reference_frames(None, IMAGENET_DEFAULT, 64, 96)
    for name in ("a.npz", "b.npz"):
        reference_from_model(pyramid(tmp_path), frames, IMAGENET_DEFAULT, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_frames_are_those_that_the_device_makes_of_the_same_image(tmp_path: Path) -> None:
    frames = reference_frames(None, IMAGENET_DEFAULT, 64, 96, count=1)
    reference_from_model(pyramid(tmp_path), frames, IMAGENET_DEFAULT, tmp_path / "a.npz")
    expected = np.empty((1, 3, 64, 96), np.float32)
    write_input(decode_image(shipped_photographs()[0].read_bytes()), expected, IMAGENET_DEFAULT, 64, 96)
    assert np.array_equal(read_reference(tmp_path / "a.npz").normalised(IMAGENET_DEFAULT), expected)


def test_frames_of_another_size_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    frames = reference_frames(None, IMAGENET_DEFAULT, 32, 32)
    with pytest.raises(InvalidModel, match="does not run on these frames"):
        reference_from_model(pyramid(tmp_path), frames, IMAGENET_DEFAULT, tmp_path / "reference.npz")
    assert not (tmp_path / "reference.npz").exists()


def test_a_model_whose_outputs_are_not_finite_gets_no_reference(tmp_path: Path) -> None:
    frames = reference_frames(None, IMAGENET_DEFAULT, 64, 96)
    with pytest.raises(InvalidModel, match="not finite"):
        reference_from_model(pyramid(tmp_path, gain=1e38), frames, IMAGENET_DEFAULT, tmp_path / "reference.npz")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    frames = reference_frames(None, IMAGENET_DEFAULT, 64, 96)
    with pytest.raises(InvalidModel, match="ONNX Runtime refuses the model"):
        reference_from_model(tmp_path / "x.onnx", frames, IMAGENET_DEFAULT, tmp_path / "reference.npz")
