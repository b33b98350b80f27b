from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def loaded_by(module: str) -> set[str]:
    program = f"import {module}, sys; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("module", "too_heavy"),
    [
        ("backbench.agent.__main__", {"torch", "onnx", "onnxruntime", "numpy", "tensorrt", "pycuda"}),
        ("backbench.controller.__main__", {"pyarrow", "duckdb", "scipy", "sqlalchemy", "onnx", "onnxruntime", "grpc"}),
        ("backbench.agent.worker.__main__", {"grpc", "google", "onnx", "torch"}),
        ("backbench.agent.sampling.__main__", {"grpc", "google", "numpy", "onnx", "onnxruntime", "jtop", "pynvml"}),
        ("backbench.domain.event", {"google", "grpc", "numpy"}),
    ],
)
def test_a_start_loads_nothing_that_it_may_not_need(module: str, too_heavy: set[str]) -> None:
    assert not loaded_by(module) & too_heavy


def test_the_nouns_import_the_standard_library_alone() -> None:
    modules = [f"backbench.domain.{path.stem}" for path in (ROOT / "protos/backbench/domain").glob("[!_]*.py")]
    program = f"""
import sys
before = set(sys.modules)
import {", ".join(modules)}
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names)
"""
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["backbench"]
