"""The one door to torch and timm: everything that needs them comes through here, and nothing at start-up does."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from importlib.util import find_spec
from typing import Any

from backbench.domain.errors import InvalidArgument

_REMEDY = "pip install 'backbench[export]'"
_stand_ins: list[Any] = []


def require_export() -> None:
    """Raise InvalidArgument, naming the extra, unless torch, timm and onnxscript are installed; imports none."""
    missing = [name for name in ("torch", "timm", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InvalidArgument(f"exporting needs {', '.join(missing)}, which is not installed; {_REMEDY}")


def import_timm() -> Any:
    """timm, also beside a torchvision whose compiled operators do not load with this torch.

    Such a torchvision registers shapes for operators that do not exist, and stops. Declaring the operator's signature
    first lets the import go on; no backbone calls one of them. Raises InvalidArgument where torch or timm is missing.
    """
    require_export()
    torch = importlib.import_module("torch")
    for _ in range(8):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module("torchvision")
                return importlib.import_module("timm")
        except RuntimeError as error:
            missing = re.fullmatch(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            for module in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm")]:
                del sys.modules[module]
            if not _stand_ins:
                _stand_ins.append(torch.library.Library("torchvision", "FRAGMENT"))
            _stand_ins[0].define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except (ImportError, OSError) as error:
            raise InvalidArgument(f"timm does not import ({_first_line(error)}); {_REMEDY}") from error
    raise InvalidArgument(
        f"torchvision does not import beside this torch; install the pair that belongs together: {_REMEDY}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
