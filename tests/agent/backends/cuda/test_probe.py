"""Whether CUDA can be used. Stands on the fake driver, asked by ctypes alone, and on libraries that are no driver."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.backends.cuda.driver_process import compile_driver, compiler_lacking, environment

from backbench.agent.backends.cuda.probe import Cuda, probe_cuda

Run = Callable[..., Any]


def _probed(device: int, changes: dict[str, str]) -> Cuda:
    with environment(**changes):
        return probe_cuda(device)


def test_a_gpu_is_told_with_its_name_and_architecture_and_the_drivers_version(over_driver: Run) -> None:
    changes = {"FAKECUDA_NAME": "Orin", "FAKECUDA_CC": "87", "FAKECUDA_VERSION": "12060", "FAKECUDA_DEVICES": "2"}
    assert over_driver(_probed, 1, changes) == Cuda(True, "", "Orin", (8, 7), "12.6")
    assert over_driver(_probed, 0, {"FAKECUDA_CC": "110"}).compute_capability == (11, 0)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("34", "libcuda.so.1 is the CUDA toolkit's stub and no driver; take its folder out of LD_LIBRARY_PATH"),
        ("35", "the NVIDIA driver is for CUDA 11.4 at most, too old for the kernel or the library over it; update"),
        ("100", "the NVIDIA driver finds no GPU; look at nvidia-smi"),
        ("999", "the NVIDIA driver refuses (cuInit: CUDA_ERROR_UNKNOWN); look at nvidia-smi"),
        ("12345", "the NVIDIA driver refuses (cuInit: CUDA error 12345); look at nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_start_is_told_with_the_reason(over_driver: Run, code: str, words: str) -> None:
    found = over_driver(_probed, 0, {"FAKECUDA_INIT": code, "FAKECUDA_VERSION": "11040"})
    assert not found.available
    assert found.reason.startswith(words)
    assert found.driver_version == "11.4"
    assert "\n" not in found.reason


def test_a_driver_without_a_gpu_and_a_gpu_that_is_not_there_are_told(over_driver: Run) -> None:
    assert "finds no GPU" in over_driver(_probed, 0, {"FAKECUDA_DEVICES": "0"}).reason
    assert over_driver(_probed, 2, {"FAKECUDA_DEVICES": "2"}).reason.startswith("no GPU 2 here; CUDA numbers 2 from 0")
    assert not over_driver(_probed, -1, {}).available


def test_without_a_driver_that_is_the_reason() -> None:
    found = probe_cuda(library="libcuda-that-nobody-has.so.1")
    assert found == Cuda(False, "no NVIDIA driver here: libcuda-that-nobody-has.so.1 is not installed")


def test_a_library_that_is_none_is_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"not a library")
    reason = probe_cuda(library=str(tmp_path / "libcuda.so.1")).reason
    assert reason.startswith("the NVIDIA driver cannot be loaded: ")
    assert "\n" not in reason


def test_a_library_without_the_drivers_functions_is_no_driver() -> None:
    assert "cuInit" in probe_cuda(library="libc.so.6").reason


def test_it_prints_what_it_found_as_json(tmp_path: Path) -> None:
    if why := compiler_lacking():
        pytest.skip(why)
    compile_driver(tmp_path)
    told = subprocess.run(
        [sys.executable, "-m", "backbench.agent.backends.cuda.probe"],
        env={"LD_LIBRARY_PATH": str(tmp_path), "FAKECUDA_NAME": "Orin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(told.stdout) == {
        "available": True, "reason": "", "name": "Orin", "compute_capability": [8, 7], "driver_version": "13.0",
    }  # fmt: skip
