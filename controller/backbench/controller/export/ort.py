"""ONNX Runtime on the controller: imported late, on one thread, and quiet."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backbench.domain.errors import InvalidArgument, InvalidModel
from backbench.models.onnx_file import first_line

_ERROR = 3
"""ONNX Runtime's level for messages that are errors."""


def import_ort(module: str = "onnxruntime") -> Any:
    """The module of ONNX Runtime with this name; raises InvalidArgument, saying what brings it, without one."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidArgument(
            f"onnxruntime is not installed or does not import ({first_line(error)}); install it:"
            " pip install 'backbench[controller]'"
        ) from error


def open_session(model: Path, *, optimised: Path | None = None) -> Any:
    """A session for `model` on one thread of the CPU, so that the same model gives the same numbers every time.

    The graph as ONNX Runtime executes it is written to `optimised`. Raises InvalidModel where it refuses the model.
    """
    ort = import_ort()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR
    if optimised:
        options.optimized_model_filepath = str(optimised)
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidModel(
            f"{model}: ONNX Runtime refuses the model ({first_line(error)}); check the file with onnx.checker"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing below an error is logged or warned of within; the quantizer writes advice to the root logger."""
    root, before = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
