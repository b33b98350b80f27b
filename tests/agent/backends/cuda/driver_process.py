"""The fake driver, and a process of its own in which tests run over it: `libcuda.so.1` is found when one starts.

PyCUDA comes from the environment, or from where `scripts/build-pycuda` puts it. What else it wants of a driver at its
import it is given as functions that are not supported.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

_FAKES = Path(__file__).parents[3] / "fakes"
_PATIENCE_S = 60


def compiler_lacking() -> str:
    """Why the fake driver cannot be compiled here; "" where it can."""
    return "" if shutil.which("gcc") else "gcc is not installed: the fake driver cannot be compiled"


def library_lacking(name: str) -> str:
    """Why "pycuda" or "cuda-bindings" cannot be tried here; "" where it can."""
    if name == "pycuda":
        return "" if _pycuda_folder() else "PyCUDA is not installed; scripts/build-pycuda builds it once"
    return "" if importlib.util.find_spec("cuda") else "cuda-bindings is not installed"


def compile_driver(folder: Path, *, whole: bool = True) -> None:
    """Put the fake driver into a folder as `libcuda.so.1`; `whole` has all that PyCUDA wants, if there is one."""
    rest = folder / "rest.c"
    names = _wanted() if whole else []
    rest.write_text("".join(f"__attribute__((weak)) int {name}(void) {{ return 801; }}\n" for name in names))
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([*command, str(_FAKES / "fake_libcuda.c"), str(rest), "-ldl"], check=True)


@contextlib.contextmanager
def process_over(folder: Path) -> Iterator[Callable[..., Any]]:
    """A process that finds the libraries of a folder first: what this gives runs a function of a module there."""
    before = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = str(folder)
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start, (_pycuda_folder(),))
    try:
        pool.submit(os.getpid).result(_PATIENCE_S)
    finally:
        if before is None:
            del os.environ["LD_LIBRARY_PATH"]
        else:
            os.environ["LD_LIBRARY_PATH"] = before
    with pool:
        yield lambda work, *arguments: pool.submit(work, *arguments).result(_PATIENCE_S)


@contextlib.contextmanager
def environment(**changes: str) -> Iterator[None]:
    """What the fake driver is for a while, within the process over it."""
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            del os.environ[name]


def fake() -> Any:
    """The fake driver itself, for what it counts."""
    return ctypes.CDLL("libcuda.so.1")


def _start(packages: Path | None) -> None:
    if packages is not None and str(packages) not in sys.path:
        sys.path.append(str(packages))


def _wanted() -> list[str]:
    """What PyCUDA must find in a driver when it is imported."""
    packages = _pycuda_folder()
    if packages is None:
        return []
    command = ["nm", "-D", "--undefined-only", *map(str, (packages / "pycuda").glob("_driver*.so"))]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted(name for line in listed.splitlines() if (name := line.split()[-1]).startswith("cu"))


@functools.lru_cache
def _pycuda_folder() -> Path | None:
    """The folder that PyCUDA's package lies in."""
    installed = importlib.util.find_spec("pycuda")
    if installed is not None and installed.origin is not None:
        return Path(installed.origin).parents[1]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    return max((root / "backbench-tests").glob(f"pycuda-*-{python}"), default=None)
