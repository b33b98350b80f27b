"""The real modules that tests hold things against: TensorRT's bindings over stub libraries, and TensorRT for RTX.

The bindings are wheels of some 1.2 MB; they are downloaded once into a cache, and the stubs compiled with gcc.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

_FAKES = Path(__file__).parents[3] / "fakes"
_ROOT = Path(__file__).parents[4]
_BINDINGS = {
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.13.2.6": "tensorrt-cu13-bindings==10.13.2.6",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")


def real_facts(version: str) -> Any:
    """What `tensorrt_facts.py` says of the real module of that version; skips the test where it cannot be had."""
    found = _facts(version)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@functools.lru_cache
def _facts(version: str) -> Any:
    """The facts, or why they cannot be had; asked for once a process."""
    if version not in _BINDINGS:
        if importlib.util.find_spec("tensorrt_rtx") is None:
            return "tensorrt-rtx is not installed (pip install 'tensorrt-rtx==1.7.*')"
        return _told("tensorrt_rtx", {})
    if platform.machine() != "x86_64" or shutil.which("gcc") is None:
        return "the real bindings of TensorRT are tried on x86-64 with gcc alone"
    folder = _unpacked(version)
    if folder is None:
        return f"{_BINDINGS[version]} has no wheel for this Python, or cannot be downloaded"
    paths = os.pathsep.join(map(str, (folder, *sys.path)))
    return _told("tensorrt_bindings", {"PYTHONPATH": paths, "LD_LIBRARY_PATH": str(_stubs(version))})


def _told(module: str, environment: dict[str, str]) -> Any:
    told = subprocess.run(
        [sys.executable, str(_FAKES / "tensorrt_facts.py"), module],
        env={**os.environ, **environment}, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    folder = Path(root) / "backbench-tests" / f"tensorrt-bindings-{python}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _unpacked(version: str) -> Path | None:
    """The folder with the bindings, downloaded where they are not there yet; None where that cannot be."""
    folder = _cache() / version
    if folder.exists():
        return folder
    part = folder.with_name(f".{version}.{os.getpid()}")
    got = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
         "--retries", "1", "--timeout", "10", "-d", str(part),
         _BINDINGS[version]],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if got.returncode != 0:
        shutil.rmtree(part, ignore_errors=True)
        return None
    for wheel in part.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(part)
        wheel.unlink()
    _moved(part, folder)
    return folder


def _stubs(version: str) -> Path:
    major = version.partition(".")[0]
    folder = _cache() / f"stubs-{major}"
    if folder.exists():
        return folder
    part = folder.with_name(f".stubs-{major}.{os.getpid()}")
    part.mkdir()
    for name in _LIBRARIES:
        file = f"lib{name}.so.{major}"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{file}", "-o", str(part / file),
             str(_FAKES / "stub_tensorrt.c")],
            check=True,
        )  # fmt: skip
    _moved(part, folder)
    return folder


def _moved(part: Path, folder: Path) -> None:
    try:
        part.rename(folder)
    except OSError:  # another test was first
        shutil.rmtree(part)
