"""The installed ONNX Runtime: which one it is, and its refusals in words that help."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from pathlib import Path
from typing import Any

from backbench.agent.backends.base import WorkerFailure
from backbench.domain.run import FailureReason

PRECISIONS = ("as-model", "fp32", "fp16", "int8")
"""What a model holds: it is executed as it is."""
CPU = "CPUExecutionProvider"
_BUILDS = (
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-gpu-extended", "onnxruntime-migraphx", "onnxruntime-openvino",
    "onnxruntime-rocm",
)  # fmt: skip
"""Distributions that all write the folder `onnxruntime`."""
_OLDEST_OPSET = 7
_REMEDIES = {
    "IR version": "export the model with an older IR version, or update ONNX Runtime on the device",
    "opset": "export the model with an older opset, or update ONNX Runtime on the device",
    "is not a registered": "export the model without this operator, or update ONNX Runtime on the device",
    "NOT_IMPLEMENTED": "export the model without this operator, or in another precision",
}
_IR_VERSION = 8
"""Of a model whose opset is tried: every ONNX Runtime of the last years reads it."""


def builds(module: Any) -> tuple[str, ...]:
    """The distributions of ONNX Runtime that have written the module's folder; there may only be one.

    Looking for each by `importlib.metadata` would add 8 ms to the import that is measured.
    """
    beside = Path(module.__file__).parents[1].glob("onnxruntime*.dist-info")
    names = {path.name.partition("-")[0].replace("_", "-") for path in beside}
    return tuple(name for name in _BUILDS if name in names)


def imported() -> Any:
    """The module. Raises WorkerFailure where there is none, one that two distributions wrote, or a broken one."""
    try:
        module = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise unavailable(f"onnxruntime does not import: {one_line(error)}; install it again") from error
        raise unavailable("onnxruntime is not installed; pip install 'backbench[agent]'") from error
    except (ImportError, OSError) as error:
        raise unavailable(f"onnxruntime does not import: {one_line(error)}; install it again") from error
    if not hasattr(module, "InferenceSession"):
        raise unavailable("onnxruntime is an empty folder, left by another distribution of it; install it again")
    if len(found := builds(module)) > 1:
        raise unavailable(
            f"{' and '.join(found)} are both installed and have overwritten each other's files; pip uninstall both,"
            " then install one of them again"
        )
    return module


def provider_remedy(module: Any, provider: str) -> str:
    """What brings a provider that this build of ONNX Runtime lacks."""
    build = next(iter(builds(module)), "built here")
    return (
        f"this ONNX Runtime ({build}) has no {provider}; pip uninstall onnxruntime, then pip install"
        " 'backbench[agent-gpu]'"
    )


def load_error(module: Any, name: str) -> str:
    """Why the library of a provider cannot be loaded; empty where it can. ONNX Runtime writes that to its log alone."""
    folder = Path(module.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return one_line(error)
    return ""


def refused(error: Exception, module: Any) -> WorkerFailure:
    """ONNX Runtime's refusal of a model, with what helps."""
    words = one_line(error)
    remedy = next((remedy for part, remedy in _REMEDIES.items() if part in words), None)
    remedy = remedy or "export the model again, or update ONNX Runtime on the device"
    return WorkerFailure(
        FailureReason.INVALID_MODEL, f"ONNX Runtime {module.__version__} refuses the model: {words}; {remedy}"
    )


def unavailable(reason: str) -> WorkerFailure:
    """The backend cannot be used here."""
    return WorkerFailure(FailureReason.BACKEND_UNAVAILABLE, reason)


def one_line(error: Exception) -> str:
    """What it says, in one line of reasonable length."""
    text = " ".join(str(error).split())
    return text.removeprefix("[ONNXRuntimeError] : ")[:300].rstrip(". ")


def newest_opset(module: Any) -> int | None:
    """The newest opset of which a model of one operator opens; None where none does, or onnx is missing.

    ONNX Runtime does not tell it, and its version does not either: boards have builds of their own.
    """
    options = module.SessionOptions()
    options.log_severity_level = 4
    try:
        from onnx import defs
    except (ImportError, OSError):
        return None
    for opset in range(defs.onnx_opset_version(), _OLDEST_OPSET - 1, -1):
        with contextlib.suppress(Exception):  # its errors have no base of their own
            module.InferenceSession(one_operator("Identity", opset), options, providers=[CPU])
            return opset
    return None


def one_operator(operator: str, opset: int = 13) -> bytes:
    """A model of one operator, from x to y, both of one number. Raises ImportError without onnx."""
    from onnx import TensorProto, helper

    number = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "one", number[:1], number[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_VERSION)
    data: bytes = model.SerializeToString()
    return data
