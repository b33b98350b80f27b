"""Which TensorRT there is. Stands on modules that are absent or broken for real; TensorRT itself is not needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.tensorrt.module import import_library
from backbench.domain.run import FailureReason


def _reason(module_name: str) -> str:
    with pytest.raises(WorkerFailure) as refused:
        import_library(module_name)
    assert refused.value.reason is FailureReason.BACKEND_UNAVAILABLE
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("module_name", "remedy"),
    [
        ("tensorrt", "apt install python3-libnvinfer, and make the agent's environment with --system-site-packages"),
        ("tensorrt_rtx", "pip install 'backbench[rtx]'"),
    ],
)
def test_an_absent_library_says_what_brings_it(monkeypatch: pytest.MonkeyPatch, module_name: str, remedy: str) -> None:
    monkeypatch.delitem(sys.modules, module_name, raising=False)
    monkeypatch.setattr(sys, "path", [])
    words = _reason(module_name)
    assert words.startswith(f"{module_name} is not installed; ")
    assert remedy in words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "raise ImportError('libnvonnxparser.so.11: cannot open\\nshared object file')",
            "libnvonnxparser.so.11: cannot",
        ),
        ("raise OSError('libnvdla_compiler.so: cannot open shared object file')", "libnvdla_compiler.so"),
        ("import tensorrt_libs_that_are_not_there", "No module named 'tensorrt_libs_that_are_not_there'"),
    ],
)
def test_a_library_of_which_a_part_is_missing_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    reason = _reason("tensorrt")
    assert reason.startswith("tensorrt does not import: ")
    assert words in reason
    assert "all of one version" in reason
