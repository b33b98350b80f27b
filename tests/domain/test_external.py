from __future__ import annotations

import pytest

from backbench.domain.errors import InvalidModel
from backbench.domain.external import MAX_FILES, check_locations


def test_plain_paths_below_the_model_s_folder_are_taken() -> None:
    check_locations([], "model.onnx")
    check_locations(["weights.data", "parts/1.bin", "parts/2.bin", "..data", "größe.bin"], "model.onnx")


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        ("C:weights", "is absolute"),
        ("..", "leaves the model's folder"),
        ("a/../../b", "leaves the model's folder"),
        ("a\\..\\b", "has a character that is not taken"),
        ("a\0b", "has a character that is not taken"),
        ("a\nb", "has a character that is not taken"),
        ("./a", "is not written plainly"),
        ("a//b", "is not written plainly"),
        ("a/", "is not written plainly"),
        ("x" * 256, "is too long"),
        ("/".join(["x" * 200] * 6), "is too long"),
    ],
)
def test_a_path_that_may_leave_the_folder_is_refused_with_the_reason(location: str, problem: str) -> None:
    with pytest.raises(InvalidModel, match=problem) as caught:
        check_locations(["fine.data", location], "model.onnx")
    assert caught.value.message.startswith("model.onnx: ")
    assert caught.value.message.isprintable()


def test_a_path_that_is_named_twice_or_runs_through_a_file_is_refused() -> None:
    with pytest.raises(InvalidModel, match="named twice"):
        check_locations(["a", "b", "a"], "model.onnx")
    with pytest.raises(InvalidModel, match="lies in what is a file"):
        check_locations(["a/b/c", "a/b"], "model.onnx")


def test_too_many_files_are_refused() -> None:
    check_locations([f"{number}.bin" for number in range(MAX_FILES)], "model.onnx")
    with pytest.raises(InvalidModel, match="at most"):
        check_locations([f"{number}.bin" for number in range(MAX_FILES + 1)], "model.onnx")
